"""The decoder as the Trainer calls it: a loss, and gradients on the LoRA parameters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from the_block_llm.models.layerwise.added_tokens import AddedPlaces, AddedTokens
from the_block_llm.models.layerwise.architecture import DecoderShape
from the_block_llm.models.layerwise.chunked_loss import HeadLoss, VocabularyHead
from the_block_llm.models.layerwise.kernels import fused
from the_block_llm.models.layerwise.kernels.attention import Segments
from the_block_llm.models.layerwise.kernels.norms import Norm
from the_block_llm.models.layerwise.layer import DecoderLayer
from the_block_llm.models.layerwise.layer_context import Batch, Tiling
from the_block_llm.models.layerwise.lora_linear import LowRank
from the_block_llm.models.layerwise.offload.activation_offload import ActivationStore, Placement
from the_block_llm.models.layerwise.offload.weight_streaming import LayerStore


@dataclass(frozen=True)
class EngineSettings:
    """How memory is traded for time; the plan chooses, see ``plan.py``."""

    n_layers: int
    n_resident: int
    """Layers whose weights stay on the device; the others are streamed."""
    head_resident: bool
    """Whether the output matrix stays on the device, or visits it in tiles."""
    activations: Placement
    """Where the layers' inputs wait for the backward pass."""
    mlp_tokens: int
    """Tokens that go through the MLP together."""
    head_groups: int
    """Parts into which attention heads are cut."""
    loss_positions: int
    """Positions whose logits exist together."""
    prefetch_states: bool
    """Whether the next layer's input is fetched while a layer computes."""
    keep_unpacked: bool = False
    """Whether going back a layer's weights are unpacked once, and stay so until it is done."""


@dataclass(frozen=True)
class FrozenParts:
    """The base model's weights, wherever they lie."""

    layers: LayerStore
    embedding: torch.Tensor
    head: VocabularyHead
    last_norm: Norm
    added: AddedTokens | None = None
    """Trained rows beside embedding and head."""


@dataclass(frozen=True)
class FlatRows:
    """A micro-batch, its rows one behind the other.

    All tensors are one-dimensional and on the device, but for ``lengths``.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    lengths: list[int]
    """Tokens of each segment."""
    positions: torch.Tensor
    """Tokens that predict a target."""
    targets: torch.Tensor
    added: AddedPlaces | None = None
    """Where the added tokens are; ``input_ids`` holds another there."""


class LayerwiseDecoder:
    """Computes losses and gradients with one layer's weights unpacked at a time."""

    def __init__(
        self,
        shape: DecoderShape,
        parts: FrozenParts,
        settings: EngineSettings,
        low_ranks: Sequence[dict[str, LowRank]],
        dropout: float,
        rotary: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
        dtype: torch.dtype,
        disk_folder: Path | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            shape: Of the decoder.
            parts: Frozen weights.
            settings: Memory against time.
            low_ranks: By layer, the LoRA pairs by the names of their Linear layers.
            dropout: Of LoRA's input.
            rotary: Gives cosine and sine, ``(1, n, head_dim)``, for positions ``(1, n)``.
            dtype: Of hidden states.
            disk_folder: For activations on disk.
        """
        self.shape = shape
        self.settings = settings
        self.training = True
        self._parts = parts
        self._device = parts.layers.device
        self._dtype = dtype
        self._dropout = dropout
        self._rotary = rotary
        self._states = ActivationStore(settings.activations, self._device, disk_folder)
        self._tiling = Tiling(settings.mlp_tokens, settings.head_groups, settings.keep_unpacked)
        self._layers = [
            DecoderLayer(index, shape, parts.layers.layout, pairs, dropout)
            for index, pairs in enumerate(low_ranks)
        ]
        trained = [
            parameter
            for pairs in low_ranks
            for pair in pairs.values()
            for parameter in (pair.down, pair.up)
        ]
        self._trained = [*trained, *(parts.added.parameters if parts.added else [])]
        self.returns_gradients = False
        """Whether gradients go through autograd, which takes room for them twice; so that its
        hooks, which average them over several processes, see them."""

    def loss(self, rows: FlatRows) -> torch.Tensor:
        """Sum of the cross-entropies of all targets; its backward fills the LoRA gradients."""
        if torch.is_grad_enabled() and self._trained:
            inputs = self._trained if self.returns_gradients else self._trained[:1]
            total: torch.Tensor = _Loss.apply(self, rows, *inputs)  # type: ignore[no-untyped-call]
            return total
        batch = self._batch(rows)
        return self._head_loss(self._run(rows, batch, keep=False), rows, with_slope=False).total

    @torch.no_grad()
    def next_tokens(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """The likeliest next token of each prompt; no dropout, and no cache of what came before.

        All prompts go through the layers together, so that streamed weights travel once.
        """
        lengths = [len(prompt) for prompt in prompts]
        ids = torch.tensor([token for prompt in prompts for token in prompt])
        added = None
        if self._parts.added is not None:
            places = self._parts.added.places_in(ids)
            added = AddedPlaces(places.positions.to(self._device), places.rows.to(self._device))
        flat = ids.to(self._device)
        positions = torch.cat([torch.arange(length, device=self._device) for length in lengths])
        rows = FlatRows(flat, positions, lengths, flat[:0], flat[:0], added)
        was_training, self.training = self.training, False
        try:
            states = self._run(rows, self._batch(rows), keep=False)
        finally:
            self.training = was_training
        ends = torch.tensor(lengths, device=self._device).cumsum(0) - 1
        last = states[ends]
        normed = torch.empty_like(last)
        self._parts.last_norm.write(last, normed)
        best: list[int] = self._parts.head.logits(normed).argmax(dim=1).tolist()
        return best

    def _batch(self, rows: FlatRows) -> Batch:
        # A float32 stand-in: the rotary module takes its type and device from it.
        like = torch.empty(0, dtype=torch.float32, device=self._device)
        cosine, sine = self._rotary(like, rows.position_ids.unsqueeze(0))
        half = self.shape.head_dim // 2
        seed = None
        if self.training and self._dropout:
            # From the host's generator, whose state checkpoints keep.
            seed = int(torch.randint(2**31, ()).item()) << 31
        return Batch(
            Segments.of_lengths(rows.lengths, self._device),
            cosine[0, :, :half].contiguous(),
            sine[0, :, :half].contiguous(),
            seed,
        )

    def _run(self, rows: FlatRows, batch: Batch, keep: bool) -> torch.Tensor:
        """Hidden states after the last layer, ``(n, hidden)``."""
        state = fused.gather_rows(self._parts.embedding, rows.input_ids, self._dtype)
        if self._parts.added is not None and rows.added is not None:
            self._parts.added.put(state, rows.added)
        for index, views in self._parts.layers.walk(range(self.shape.n_layers)):
            if keep:
                self._states.put(index, state)
            state = self._layers[index].forward(state, views, batch, self._tiling)
        return state

    def _run_backward(self, slope: torch.Tensor, batch: Batch) -> None:
        order = range(self.shape.n_layers - 1, -1, -1)
        for index, views in self._parts.layers.walk(order):
            self._states.prefetch(index)
            if self.settings.prefetch_states and index:
                self._states.prefetch(index - 1)
            self._layers[index].backward(
                partial(self._states.fetch, index),
                slope, views, batch, self._tiling,
            )  # fmt: skip
            self._states.drop(index)

    def _head_loss(self, states: torch.Tensor, rows: FlatRows, with_slope: bool) -> HeadLoss:
        return self._parts.head.loss(
            states, rows.positions, rows.targets, self._parts.last_norm,
            self.settings.loss_positions, with_slope,
        )  # fmt: skip


class _Loss(torch.autograd.Function):
    """The whole decoder as one function; gradients of LoRA are added to ``.grad`` directly."""

    @staticmethod
    def forward(
        ctx: Any, decoder: LayerwiseDecoder, rows: FlatRows, *trained: torch.Tensor
    ) -> torch.Tensor:
        """Compute the loss, keeping the layers' inputs and the gradient of the last state."""
        del trained  # one at least, so that autograd calls backward
        ctx.decoder, ctx.batch, ctx.rows = decoder, decoder._batch(rows), rows
        total, ctx.slope, ctx.head_slope = decoder._head_loss(
            decoder._run(rows, ctx.batch, keep=True), rows, with_slope=True
        )
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Walk the layers from the last to the first."""
        decoder: LayerwiseDecoder = ctx.decoder
        if not decoder.returns_gradients:
            _Loss._add_gradients(ctx, outputs[0])
            return None, None, None
        collected = [parameter.grad for parameter in decoder._trained]
        for parameter in decoder._trained:
            parameter.grad = None
        _Loss._add_gradients(ctx, outputs[0])
        given = [parameter.grad for parameter in decoder._trained]
        for parameter, gradient in zip(decoder._trained, collected, strict=True):
            parameter.grad = gradient
        return None, None, *given

    @staticmethod
    def _add_gradients(ctx: Any, scale: torch.Tensor) -> None:
        slope, ctx.slope = ctx.slope, None
        ctx.decoder._run_backward(slope.mul_(scale), ctx.batch)
        added = ctx.decoder._parts.added
        if added is not None:
            added.finish(slope, ctx.rows.added, ctx.head_slope.mul_(scale))
