"""Models in memory: loaded on first use and evicted to stay below the memory cap."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from the_block_llm.advisor.models.quantized_cache import load_quantized
from the_block_llm.errors import ModelUnavailableError
from the_block_llm.models.adapter.adapters import load_adapter
from the_block_llm.models.adapter.manifest import open_adapter
from the_block_llm.models.base.quantized_loading import pick_device, quantized_bytes
from the_block_llm.models.base.sources import load_tokenizer
from the_block_llm.models.profiles import ModelProfile

_log = logging.getLogger(__name__)
# Fraction of the cap for the KV cache, activations, and weights that are being quantized. A model
# is evicted if the weights on the device would leave less.
_WORKSPACE_FRACTION: Final = 0.2


@dataclass
class _LoadedModel:
    """A base model in memory with the adapter that was used last."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerFast
    size_bytes: int
    adapter: Path | None = None
    adapter_tokenizer: PreTrainedTokenizerFast | None = None
    """Tokenizer with the tokens that the adapter adds, if it adds any."""
    has_run: bool = False


class ModelPool:
    """Loads models on demand and evicts the least recently used ones.

    On a GPU an evicted model moves to host memory, on a CPU it is dropped and loaded again when
    it is next used.
    """

    def __init__(
        self,
        memory_cap_gib: float,
        quantized_cache_folder: Path,
        device: torch.device | None = None,
    ) -> None:
        """Set up an empty pool.

        Args:
            memory_cap_gib: Limit for all weights on the device together.
            quantized_cache_folder: Cache of quantized weights.
            device: Device of the models; by default the GPU if there is one, else the CPU.
        """
        self._quantized_cache_folder = quantized_cache_folder
        self.device = device or pick_device()
        self._cap_bytes = int(memory_cap_gib * 2**30)
        self._on_device: dict[str, _LoadedModel] = {}
        """By profile name, least recently used first."""
        self._on_host: dict[str, _LoadedModel] = {}
        """Models evicted to host memory, by profile name."""
        if self.device.type == "cuda":
            total_bytes = torch.cuda.get_device_properties(self.device).total_memory
            # Above the cap PyTorch then raises instead of taking memory that the display needs.
            torch.cuda.set_per_process_memory_fraction(min(1.0, self._cap_bytes / total_bytes))

    @contextmanager
    def acquire(
        self, profile: ModelProfile, adapter: Path | None
    ) -> Iterator[tuple[Any, PreTrainedTokenizerFast]]:
        """Yield the profile's model in evaluation mode and its tokenizer.

        Args:
            profile: The model.
            adapter: Folder of the adapter to activate; None for the base model.

        Raises:
            AdapterError: The adapter does not fit the base model.
            ModelUnavailableError: The weights are not available or alone exceed the cap.
        """
        if adapter is not None and self._needs_reload(profile, adapter):
            del self._on_device[profile.name]
        loaded = self._load(profile)
        # Move the key to the end: the most recently used.
        self._on_device[profile.name] = self._on_device.pop(profile.name)
        if adapter is not None and adapter != loaded.adapter:
            added_tokens = open_adapter(adapter).added_tokens
            loaded.model = load_adapter(loaded.model, profile, adapter, _peft_name(adapter))
            if loaded.adapter is not None:
                # Only one adapter is kept: a server that runs for months uses many.
                loaded.model.delete_adapter(_peft_name(loaded.adapter))
            loaded.adapter = adapter
            loaded.adapter_tokenizer = (
                load_tokenizer(profile, added_tokens) if added_tokens else None
            )
            loaded.size_bytes = loaded.model.get_memory_footprint()
        adapter_switch: AbstractContextManager[Any] = nullcontext()
        if adapter is None and isinstance(loaded.model, PeftModel):
            adapter_switch = loaded.model.disable_adapter()
        loaded.has_run = True
        tokenizer = loaded.adapter_tokenizer if adapter is not None else None
        with adapter_switch:
            yield loaded.model, tokenizer or loaded.tokenizer

    def _needs_reload(self, profile: ModelProfile, adapter: Path) -> bool:
        """Return whether the base has to be loaded again before ``adapter`` can be added.

        On some CPUs bitsandbytes computes with repacked weights, and adding an adapter unpacks
        them with a loss: the result would not be the base that the adapter was trained on.
        """
        loaded = self._on_device.get(profile.name)
        if loaded is None or self.device.type != "cpu":
            return False
        return loaded.has_run and adapter != loaded.adapter

    def _load(self, profile: ModelProfile) -> _LoadedModel:
        """Return the profile's model on the device, moving or loading it if necessary."""
        if profile.name in self._on_device:
            return self._on_device[profile.name]
        loaded = self._on_host.pop(profile.name, None)
        self._evict_to_fit(
            profile, loaded.size_bytes if loaded else quantized_bytes(profile, self.device)
        )
        if loaded is None:
            _log.info("Loading %s", profile.name, extra={"markup": False})
            model = load_quantized(profile, self.device, self._quantized_cache_folder).eval()
            loaded = _LoadedModel(model, load_tokenizer(profile), model.get_memory_footprint())
        else:
            loaded.model.to(self.device)
        self._on_device[profile.name] = loaded
        return loaded

    def _evict_to_fit(self, profile: ModelProfile, size_bytes: int) -> None:
        """Evict models until ``size_bytes`` more fit below the cap."""
        if size_bytes > self._cap_bytes:
            raise ModelUnavailableError(
                f"The weights of {profile.name} take {size_bytes / 2**30:.1f} GiB, more than the "
                f"{self._cap_bytes / 2**30:.1f} GiB of advisor.memory_cap_gib. Raise it, or choose "
                "a smaller model."
            )
        available_bytes = self._cap_bytes * (1 - _WORKSPACE_FRACTION)
        while self._on_device and size_bytes + self._device_bytes() > available_bytes:
            name, loaded = next(iter(self._on_device.items()))
            del self._on_device[name]
            if self.device.type == "cuda":
                loaded.model.to("cpu")
                self._on_host[name] = loaded
                torch.cuda.empty_cache()

    def _device_bytes(self) -> int:
        return sum(loaded.size_bytes for loaded in self._on_device.values())


def _peft_name(adapter: Path) -> str:
    """Return the adapter's name in peft, which allows no dots."""
    return adapter.name.replace(".", "_")
