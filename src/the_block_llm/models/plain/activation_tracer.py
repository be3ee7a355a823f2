"""Memory of a training pass, traced with fake tensors: no weights are read, no memory is used.

The model's code runs in fake tensor mode (shapes, no data), and every storage that it allocates is
tracked until it is freed. The figures therefore hold for any architecture.
"""

import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PreTrainedConfig

from the_block_llm.models.adapter.adapters import check_targets
from the_block_llm.models.base.quantized_loading import NF4_BYTES_PER_WEIGHT
from the_block_llm.models.plain.chunked_loss import CHUNK_POSITIONS, summed_cross_entropy
from the_block_llm.models.profiles import LoraSettings, ModelProfile

# Components of a decoder layer. The values are part of the keys of training_preflight.json.
ATTENTION: Final = "attention"
MLP: Final = "MLP"
HIDDEN_STATES: Final = "hidden states"
# Substrings of the submodule names of each component, in transformers' models.
_COMPONENT_NAMES: Final = {
    ATTENTION: ("attn", "attention"),
    MLP: ("mlp", "feed_forward", "ffn", "fc1", "fc2", "experts"),
}


@dataclass(frozen=True)
class PassMemory:
    """Memory of a model and of one forward and backward pass through it."""

    quantized_bytes: int
    """Linear layers in 4 bits."""
    embedding_bytes: int
    head_bytes: int
    """0 if the head is tied to the embedding."""
    other_bytes: int
    """Norms, biases, position tables."""
    trained_parameters: int
    base_parameters: int
    saved_activation_bytes: dict[str, int]
    """By component, the activations saved for backward at the end of the last layer."""
    workspace_bytes: int
    """Memory beyond the saved activations, at the peak."""
    peak_phase: str
    """Phase in which memory peaks: ``layers`` (forward), ``loss`` or ``backward``."""


class _AllocationTracker(TorchDispatchMode):
    """Tracks the bytes of all storages that operations allocate, until they are freed."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak_bytes = 0
        self.component = HIDDEN_STATES
        """Component that new storages are attributed to."""
        self.bytes_by_component: Counter[str] = Counter()
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        # Views of weights allocate nothing.
        for tensor in (*model.parameters(), *model.buffers()):
            self._seen.add(tensor.untyped_storage())
            if tensor.grad is not None:
                self._seen.add(tensor.grad.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._track(leaf.untyped_storage())
        return result

    def _track(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        n_bytes, component = storage.nbytes(), self.component
        self.live_bytes += n_bytes
        self.bytes_by_component[component] += n_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._on_free, n_bytes, component)

    def _on_free(self, n_bytes: int, component: str) -> None:
        self.live_bytes -= n_bytes
        self.bytes_by_component[component] -= n_bytes


class _DequantizedLinear(torch.autograd.Function):
    """Linear as in bitsandbytes: the weight is dequantized for each product and not saved."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Multiply ``inputs``, ``(…, in)``, by a ``weight`` of shape ``(out, in)``."""
        ctx.shape = weight.shape
        return functional.linear(inputs, inputs.new_empty(weight.shape), bias)

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Dequantize again for the gradient of the inputs."""
        return outputs[0] @ outputs[0].new_empty(ctx.shape), None, None


class _LoraLinear4bit(nn.Module):
    """A frozen 4-bit layer with a LoRA adapter, using the same operations as peft."""

    def __init__(self, layer: nn.Linear, lora: LoraSettings, is_target: bool) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self._dropout = lora.dropout
        self.lora_a = self.lora_b = None
        if is_target:
            self.lora_a = nn.Parameter(torch.empty(lora.r, layer.in_features))
            self.lora_b = nn.Parameter(torch.empty(layer.out_features, lora.r))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = _DequantizedLinear.apply(  # type: ignore[no-untyped-call]
            inputs, self.weight, self.bias
        )
        if self.lora_a is None or self.lora_b is None:
            return result
        result = result.clone()
        # peft uses nn.Identity if the dropout probability is 0.
        dropped = functional.dropout(inputs, self._dropout) if self._dropout else inputs
        low_rank = functional.linear(dropped, self.lora_a)
        return result + functional.linear(low_rank, self.lora_b) * 2.0


def trace_pass(
    config: PreTrainedConfig, profile: ModelProfile, rows: int, row_tokens: int
) -> PassMemory:
    """Trace the memory of one training pass over ``rows`` packed rows on a CPU, in float32.

    Args:
        config: Configuration of the base model; no weights are read.
        profile: Profile with the adapter's settings.
        rows: Rows per forward pass; every token is assumed to be a target.
        row_tokens: Tokens of each row.

    Raises:
        AdapterTargetError: A LoRA target matches no layer.
        torch._subclasses.fake_tensor.DataDependentOutputException: The model's control flow
            depends on tensor values (for example the routing of a mixture of experts), which fake
            tensors do not have. Also DynamicOutputShapeException and
            UnsupportedFakeTensorException.
    """
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(
            config, attn_implementation="sdpa", dtype=torch.float32
        )
        model.requires_grad_(False)
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        base_parameters = sum(parameter.numel() for parameter in model.parameters())
        check_targets(model, profile.lora, profile.name)
        n_linear = _replace_linear_layers(model, profile.lora)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        model.train()
        tracker = _AllocationTracker(model)
        _register_component_hooks(model, tracker)
        ids = torch.zeros(rows, row_tokens, dtype=torch.int64)
        with tracker:
            states = model.get_decoder()(
                input_ids=ids, position_ids=torch.zeros_like(ids), use_cache=False
            ).last_hidden_state
            tracker.component = HIDDEN_STATES
            saved_bytes = dict(tracker.bytes_by_component)
            layers_peak, tracker.peak_bytes = tracker.peak_bytes, tracker.live_bytes
            loss = _loss(states, head)
            # Inside its kernel logsumexp allocates one more chunk of logits.
            chunk_bytes = 4 * min(CHUNK_POSITIONS, ids.numel()) * head.shape[0]
            loss_peak, tracker.peak_bytes = tracker.peak_bytes + chunk_bytes, tracker.live_bytes
            del states
            loss.backward()
        # The names are part of the keys of training_preflight.json.
        peaks = {"layers": layers_peak, "loss": loss_peak, "backward": tracker.peak_bytes}
    peak_phase = max(peaks, key=lambda phase: peaks[phase])
    n_total = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    n_trained = sum(parameter.numel() for parameter in trained)
    n_head = 0 if head is embedding else head.numel()
    n_other = n_total - n_trained - n_linear - embedding.numel() - n_head
    return PassMemory(
        quantized_bytes=int(n_linear * NF4_BYTES_PER_WEIGHT),
        embedding_bytes=4 * embedding.numel(),
        head_bytes=4 * n_head,
        other_bytes=4 * n_other,
        trained_parameters=n_trained,
        base_parameters=base_parameters,
        saved_activation_bytes=saved_bytes,
        workspace_bytes=peaks[peak_phase] - sum(saved_bytes.values()),
        peak_phase=peak_phase,
    )


def _replace_linear_layers(model: nn.Module, lora: LoraSettings) -> int:
    """Replace all Linear layers except the head; return the number of their weights."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    n_weights = 0
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer is not head:
                is_target = lora.target_modules == "all-linear" or name in lora.target_modules
                setattr(parent, name, _LoraLinear4bit(layer, lora, is_target))
                n_weights += layer.weight.numel()
    return n_weights


def _register_component_hooks(model: nn.Module, tracker: _AllocationTracker) -> None:
    """Attribute allocations to the attention or the MLP while it runs."""

    def set_component(component: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            tracker.component = component

        return hook

    for name, module in model.named_modules():
        parent, _, child = name.rpartition(".")
        component = _component_of(child)
        # Only the outermost of nested components.
        if component is not None and all(_component_of(n) is None for n in parent.split(".")):
            module.register_forward_pre_hook(set_component(component))
            module.register_forward_hook(set_component(HIDDEN_STATES))


def _component_of(module_name: str) -> str | None:
    lower = module_name.lower()
    if "norm" in lower:
        return None
    return next(
        (
            component
            for component, substrings in _COMPONENT_NAMES.items()
            if any(substring in lower for substring in substrings)
        ),
        None,
    )


def _loss(states: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Compute the loss over all positions; a mask would depend on tensor values."""
    flat = states[:, :-1].reshape(-1, states.shape[-1]).clone()
    targets = torch.zeros(flat.shape[0], dtype=torch.int64)
    return summed_cross_entropy(flat, head, targets) / 2
