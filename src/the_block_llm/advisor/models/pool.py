"""Models in memory: loaded when first needed, together never above the cap."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import init_empty_weights
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from the_block_llm.advisor.models.quantized_cache import load_quantised
from the_block_llm.errors import ModelUnavailableError
from the_block_llm.models.adapter.adapters import add_adapter
from the_block_llm.models.adapter.manifest import open_adapter
from the_block_llm.models.base.quantized_loading import compute_dtype, pick_device
from the_block_llm.models.base.sources import load_config, load_tokenizer
from the_block_llm.models.profiles import ModelProfile

_log = logging.getLogger(__name__)
# NF4 with double quantisation: 4 bits, and 8.127 bits of scale for each block of 64.
_NF4_BYTES: Final = 0.5 + 8.127 / 8 / 64
# Of the cap, for keys and values, activations, and weights on their way to 4 bits: two models
# that would leave less take turns.
_WORKING_SHARE: Final = 0.2


@dataclass
class _Resident:
    """A model that is loaded, with the adapter that was asked for last."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerFast
    n_bytes: int
    adapter: Path | None = None
    adapter_tokenizer: PreTrainedTokenizerFast | None = None
    """With the tokens that the adapter was trained with beside the base's own."""
    has_answered: bool = False


class LoadedModels:
    """Gives out models one at a time.

    Two models whose weights do not fit under the cap together take turns: on a GPU the one
    that is not needed waits in host memory, on a CPU it is dropped and loaded again.
    """

    def __init__(
        self, memory_cap_gib: float, copies_folder: Path, device: torch.device | None = None
    ) -> None:
        """Load nothing yet.

        Args:
            memory_cap_gib: All weights on the device together.
            copies_folder: Where quantised weights are kept.
            device: By default the GPU where there is one.
        """
        self._copies_folder = copies_folder
        self.device = device or pick_device()
        self._cap_bytes = int(memory_cap_gib * 2**30)
        self._active: dict[str, _Resident] = {}
        """On the device, least recently used first."""
        self._waiting: dict[str, _Resident] = {}
        """In host memory."""
        if self.device.type == "cuda":
            total = torch.cuda.get_device_properties(self.device).total_memory
            # Beyond the cap PyTorch raises rather than take what the display needs.
            torch.cuda.set_per_process_memory_fraction(min(1.0, self._cap_bytes / total))

    @property
    def active(self) -> list[str]:
        """Names of the profiles on the device."""
        return list(self._active)

    @contextmanager
    def using(
        self, profile: ModelProfile, adapter: Path | None
    ) -> Iterator[tuple[Any, PreTrainedTokenizerFast]]:
        """The profile's model in evaluation mode, with ``adapter`` or as the base model.

        Raises:
            AdapterError: The adapter does not fit.
            ModelUnavailableError: The weights cannot be had, or are above the cap alone.
        """
        if adapter is not None and self._must_load_again(profile, adapter):
            del self._active[profile.name]
        resident = self._resident(profile)
        # A key of the active ones again at the end: the most recently used.
        self._active[profile.name] = self._active.pop(profile.name)
        if adapter is not None and adapter != resident.adapter:
            resident.model = add_adapter(resident.model, profile, adapter, _name(adapter))
            if resident.adapter is not None:
                # One at a time: a server that runs for months sees many.
                resident.model.delete_adapter(_name(resident.adapter))
            resident.adapter = adapter
            added = open_adapter(adapter).added_tokens
            resident.adapter_tokenizer = load_tokenizer(profile, added) if added else None
            resident.n_bytes = resident.model.get_memory_footprint()
        switched: AbstractContextManager[Any] = nullcontext()
        if adapter is None and isinstance(resident.model, PeftModel):
            switched = resident.model.disable_adapter()
        resident.has_answered = True
        tokenizer = resident.adapter_tokenizer if adapter is not None else None
        with switched:
            yield resident.model, tokenizer or resident.tokenizer

    def tokenizer(self, profile: ModelProfile) -> PreTrainedTokenizerFast:
        """The profile's tokenizer, without its weights where they are not loaded."""
        for group in (self._active, self._waiting):
            if profile.name in group:
                return group[profile.name].tokenizer
        return load_tokenizer(profile)

    def _must_load_again(self, profile: ModelProfile, adapter: Path) -> bool:
        """True where another adapter cannot simply be put beside the base as it is.

        Some processors compute from packed weights, which loading an adapter unpacks with a
        loss: the base under it would no longer be the one that was tuned.
        """
        active = self._active.get(profile.name)
        if active is None or self.device.type != "cpu":
            return False
        return active.has_answered and adapter != active.adapter

    def _resident(self, profile: ModelProfile) -> _Resident:
        if profile.name in self._active:
            return self._active[profile.name]
        waiting = self._waiting.pop(profile.name, None)
        self._make_room(profile, waiting.n_bytes if waiting else weight_bytes(profile, self.device))
        if waiting is None:
            _log.info("Loading %s", profile.name, extra={"markup": False})
            model = load_quantised(profile, self.device, self._copies_folder).eval()
            waiting = _Resident(model, load_tokenizer(profile), model.get_memory_footprint())
        else:
            waiting.model.to(self.device)
        self._active[profile.name] = waiting
        return waiting

    def _make_room(self, profile: ModelProfile, n_bytes: int) -> None:
        if n_bytes > self._cap_bytes:
            raise ModelUnavailableError(
                f"The weights of {profile.name} take {n_bytes / 2**30:.1f} GiB, more than the "
                f"{self._cap_bytes / 2**30:.1f} GiB of advisor.memory_cap_gib. Raise it, or choose "
                "a smaller model."
            )
        room = self._cap_bytes * (1 - _WORKING_SHARE)
        while self._active and n_bytes + self._bytes_active() > room:
            name, resident = next(iter(self._active.items()))
            del self._active[name]
            if self.device.type == "cuda":
                resident.model.to("cpu")
                self._waiting[name] = resident
                torch.cuda.empty_cache()

    def _bytes_active(self) -> int:
        return sum(resident.n_bytes for resident in self._active.values())


def _name(adapter: Path) -> str:
    """What peft calls the adapter; it allows no dots."""
    return adapter.name.replace(".", "_")


def weight_bytes(profile: ModelProfile, device: torch.device) -> int:
    """Bytes of the profile's weights once loaded, by arithmetic over the shapes.

    Raises:
        ModelUnavailableError: The configuration cannot be had.
    """
    with init_empty_weights():
        empty = AutoModelForCausalLM.from_config(load_config(profile))
    empty.tie_weights()
    head = empty.get_output_embeddings()
    quantised = {
        id(module.weight)
        for module in empty.modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    plain = compute_dtype(device).itemsize
    return int(
        sum(p.numel() * (_NF4_BYTES if id(p) in quantised else plain) for p in empty.parameters())
    )
