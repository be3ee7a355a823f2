"""What a pass through a model keeps and needs, found without memory and without weights.

The model's own code runs over tensors that have shapes and no content, while every storage it
makes is counted from its birth to its end. So the figures hold for any architecture.
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
from the_block_llm.models.plain.loss import CHUNK_POSITIONS, summed_cross_entropy
from the_block_llm.models.profiles import LoraSettings, ModelProfile

ATTENTION: Final = "attention"
MLP: Final = "MLP"
BETWEEN: Final = "states between"
# Words in the names of a layer's parts, in transformers' models.
_PARTS: Final = {
    ATTENTION: ("attn", "attention"),
    MLP: ("mlp", "feed_forward", "ffn", "fc1", "fc2", "experts"),
}
# NF4 in blocks of 64, whose scales are 8-bit in blocks of 256: bytes a weight.
_BYTES_A_WEIGHT: Final = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class PassSizes:
    """Bytes of a model and of one forward and backward pass through it."""

    linear_bytes: int
    """Linear layers in 4 bits."""
    embedding_bytes: int
    head_bytes: int
    """0 where it is the embedding."""
    other_bytes: int
    """Norms, biases, tables of positions."""
    trained_parameters: int
    base_parameters: int
    kept_bytes: dict[str, int]
    """By part of a layer, what waits for the way back once the last layer is done."""
    work_bytes: int
    """On top of it at the worst moment."""
    worst_moment: str


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operations make, until they are let go."""

    def __init__(self, existing: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.most = 0
        self.part = BETWEEN
        """What new storages are for."""
        self.by_part: Counter[str] = Counter()
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        # Views of weights are no new memory.
        for tensor in (*existing.parameters(), *existing.buffers()):
            self._known.add(tensor.untyped_storage())
            if tensor.grad is not None:
                self._known.add(tensor.grad.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        n_bytes, part = storage.nbytes(), self.part
        self.total += n_bytes
        self.by_part[part] += n_bytes
        self.most = max(self.most, self.total)
        weakref.finalize(storage, self._let_go, n_bytes, part)

    def _let_go(self, n_bytes: int, part: str) -> None:
        self.total -= n_bytes
        self.by_part[part] -= n_bytes


class _UnpackedProduct(torch.autograd.Function):
    """As bitsandbytes computes: the weight is unpacked for each product and not kept."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Multiply ``inputs``, ``(…, in)``, with a ``weight`` of ``(out, in)``."""
        ctx.shape = weight.shape
        return functional.linear(inputs, inputs.new_empty(weight.shape), bias)

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Unpack once more for the gradient of the inputs."""
        return outputs[0] @ outputs[0].new_empty(ctx.shape), None, None


class _AdaptedLinear(nn.Module):
    """A frozen 4-bit layer with LoRA beside, with the operations of peft."""

    def __init__(self, layer: nn.Linear, lora: LoraSettings, targeted: bool) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self._dropout = lora.dropout
        self.down = self.up = None
        if targeted:
            self.down = nn.Parameter(torch.empty(lora.r, layer.in_features))
            self.up = nn.Parameter(torch.empty(layer.out_features, lora.r))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = _UnpackedProduct.apply(  # type: ignore[no-untyped-call]
            inputs, self.weight, self.bias
        )
        if self.down is None or self.up is None:
            return result
        result = result.clone()
        # peft puts an identity in the place of a dropout of nothing.
        dropped = functional.dropout(inputs, self._dropout) if self._dropout else inputs
        low = functional.linear(dropped, self.down)
        return result + functional.linear(low, self.up) * 2.0


def trace_pass(
    config: PreTrainedConfig, profile: ModelProfile, rows: int, row_tokens: int
) -> PassSizes:
    """Count one training pass over ``rows`` packed rows on a CPU, in float32.

    Args:
        config: Of the base model; no weights are read.
        profile: Whose adapter.
        rows: That go through together, each of ``row_tokens`` tokens, every one a target.
        row_tokens: Of each row.

    Raises:
        AdapterTargetError: A LoRA target matches no layer.
        torch._subclasses.fake_tensor.DataDependentOutputException: What the model does depends
            on its numbers, as where experts are chosen; there are none here. So do
            DynamicOutputShapeException and UnsupportedFakeTensorException.
    """
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(
            config, attn_implementation="sdpa", dtype=torch.float32
        )
        model.requires_grad_(False)
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        base_parameters = sum(parameter.numel() for parameter in model.parameters())
        check_targets(model, profile.lora, profile.name)
        linear_weights = _adapt(model, profile.lora)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        model.train()
        live = _LiveBytes(model)
        _tell_parts(model, live)
        ids = torch.zeros(rows, row_tokens, dtype=torch.int64)
        with live:
            states = model.get_decoder()(
                input_ids=ids, position_ids=torch.zeros_like(ids), use_cache=False
            ).last_hidden_state
            live.part = BETWEEN
            kept = dict(live.by_part)
            in_layers, live.most = live.most, live.total
            loss = _loss(states, head)
            # Inside its operation logsumexp makes one chunk of logits more.
            chunk_bytes = 4 * min(CHUNK_POSITIONS, ids.numel()) * head.shape[0]
            in_loss, live.most = live.most + chunk_bytes, live.total
            del states
            loss.backward()
        moments = {"layers": in_layers, "loss": in_loss, "going back": live.most}
    worst = max(moments, key=lambda name: moments[name])
    everything = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    n_trained = sum(parameter.numel() for parameter in trained)
    head_numbers = 0 if head is embedding else head.numel()
    others = everything - n_trained - linear_weights - embedding.numel() - head_numbers
    return PassSizes(
        linear_bytes=int(linear_weights * _BYTES_A_WEIGHT),
        embedding_bytes=4 * embedding.numel(),
        head_bytes=4 * head_numbers,
        other_bytes=4 * others,
        trained_parameters=n_trained,
        base_parameters=base_parameters,
        kept_bytes=kept,
        work_bytes=moments[worst] - sum(kept.values()),
        worst_moment=worst,
    )


def _adapt(model: nn.Module, lora: LoraSettings) -> int:
    """Replace the Linear layers but the head; gives the number of their weights."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    weights = 0
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer is not head:
                targeted = lora.target_modules == "all-linear" or name in lora.target_modules
                setattr(parent, name, _AdaptedLinear(layer, lora, targeted))
                weights += layer.weight.numel()
    return weights


def _tell_parts(model: nn.Module, live: _LiveBytes) -> None:
    """Let the attention and the MLP of every layer say when it is their turn."""

    def enter(part: str) -> Callable[..., None]:
        def note(*_: Any) -> None:
            live.part = part

        return note

    for name, module in model.named_modules():
        above, _, last = name.rpartition(".")
        part = _part_of(last)
        # Of nested parts the outermost.
        if part is not None and all(_part_of(piece) is None for piece in above.split(".")):
            module.register_forward_pre_hook(enter(part))
            module.register_forward_hook(enter(BETWEEN))


def _part_of(name: str) -> str | None:
    words = name.lower()
    if "norm" in words:
        return None
    return next((part for part, names in _PARTS.items() if any(n in words for n in names)), None)


def _loss(states: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """The loss of all positions; which ones count depends on numbers, and there are none."""
    flat = states[:, :-1].reshape(-1, states.shape[-1]).clone()
    targets = torch.zeros(flat.shape[0], dtype=torch.int64)
    return summed_cross_entropy(flat, head, targets) / 2
