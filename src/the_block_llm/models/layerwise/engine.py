"""The decoder as the Trainer calls it: a loss, and gradients of the trained parameters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from the_block_llm.models.layerwise.added_tokens import AddedTokenPositions, AddedTokens
from the_block_llm.models.layerwise.architecture import DecoderShape
from the_block_llm.models.layerwise.kernels.attention import Segments
from the_block_llm.models.layerwise.kernels.embedding import embedding_lookup
from the_block_llm.models.layerwise.kernels.norm import Norm
from the_block_llm.models.layerwise.layer import DecoderLayer
from the_block_llm.models.layerwise.layer_context import BatchMetadata, Tiling
from the_block_llm.models.layerwise.lm_head import LMHead, LossAndGrads
from the_block_llm.models.layerwise.lora_linear import LoraPair
from the_block_llm.models.layerwise.offload.activation_offload import ActivationStore, Placement
from the_block_llm.models.layerwise.offload.weight_streaming import WeightStreamer


@dataclass(frozen=True)
class EngineSettings:
    """Trade-offs between memory and time, chosen by ``planner/plan_search.py``."""

    n_layers: int
    n_resident_layers: int
    """Layers whose weights stay on the device; the others are streamed."""
    is_head_resident: bool
    """Whether the LM head stays on the device, or is copied to it in tiles."""
    activations: Placement
    """Where the layers' inputs are stored for the backward pass."""
    mlp_tile_tokens: int
    """Tokens per tile of the MLP."""
    head_groups: int
    """Groups of attention heads that are computed one after the other."""
    loss_chunk_tokens: int
    """Positions whose logits are in memory together."""
    prefetch_activations: bool
    """Whether the next layer's input is fetched while a layer computes."""
    keep_dequantized: bool = False
    """Whether the backward pass dequantizes a layer's weights once and keeps them for its
    duration."""


@dataclass(frozen=True)
class FrozenWeights:
    """The base model's weights, on the device or in host memory."""

    layers: WeightStreamer
    embedding: torch.Tensor
    head: LMHead
    final_norm: Norm
    added_tokens: AddedTokens | None = None
    """Trained rows beside embedding and head."""


@dataclass(frozen=True)
class FlatBatch:
    """A micro-batch with its rows concatenated.

    All tensors are one-dimensional and on the device.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    segment_lengths: list[int]
    """Tokens of each segment."""
    positions: torch.Tensor
    """Indices of the tokens that predict a target."""
    targets: torch.Tensor
    added_tokens: AddedTokenPositions | None = None
    """Positions of added tokens; ``input_ids`` holds another id there."""


class LayerwiseDecoder:
    """Computes losses and gradients with the dequantized weights of one layer at a time."""

    def __init__(
        self,
        shape: DecoderShape,
        weights: FrozenWeights,
        settings: EngineSettings,
        lora_pairs: Sequence[dict[str, LoraPair]],
        dropout_probability: float,
        rotary: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
        dtype: torch.dtype,
        disk_folder: Path | None = None,
    ) -> None:
        """Assemble the decoder.

        Args:
            shape: Shape of the decoder.
            weights: Frozen weights.
            settings: Trade-offs between memory and time.
            lora_pairs: Per layer, the LoRA pairs by Linear layer name.
            dropout_probability: Dropout of LoRA's input.
            rotary: Returns cosine and sine, ``(1, n, head_dim)``, for positions ``(1, n)``.
            dtype: Of hidden states.
            disk_folder: Parent of the temporary folder for activations on disk.
        """
        self.shape = shape
        self.settings = settings
        self.training = True
        self._weights = weights
        self._device = weights.layers.device
        self._dtype = dtype
        self._dropout_probability = dropout_probability
        self._rotary = rotary
        self._activations = ActivationStore(settings.activations, self._device, disk_folder)
        self._tiling = Tiling(
            settings.mlp_tile_tokens, settings.head_groups, settings.keep_dequantized
        )
        self._layers = [
            DecoderLayer(index, shape, weights.layers.layout, pairs, dropout_probability)
            for index, pairs in enumerate(lora_pairs)
        ]
        lora_parameters = [
            parameter
            for pairs in lora_pairs
            for pair in pairs.values()
            for parameter in (pair.lora_a, pair.lora_b)
        ]
        added_parameters = weights.added_tokens.parameters if weights.added_tokens else []
        self._trained = [*lora_parameters, *added_parameters]
        self.returns_gradients = False
        """Whether gradients are returned through autograd, so that its hooks can average them over
        processes; takes memory for them twice."""

    def loss(self, batch: FlatBatch) -> torch.Tensor:
        """Return the sum of the targets' cross-entropies; its backward fills ``.grad``."""
        if torch.is_grad_enabled() and self._trained:
            inputs = self._trained if self.returns_gradients else self._trained[:1]
            loss: torch.Tensor = _DecoderLoss.apply(self, batch, *inputs)  # type: ignore[no-untyped-call]
            return loss
        metadata = self._metadata(batch)
        hidden_states = self._forward_layers(batch, metadata, save_inputs=False)
        return self._loss_and_grads(hidden_states, batch, with_grad=False).loss

    @torch.no_grad()
    def next_tokens(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Return the most likely next token of each prompt; without dropout and KV cache.

        All prompts form one batch, so that streamed weights are copied once.
        """
        lengths = [len(prompt) for prompt in prompts]
        ids = torch.tensor([token for prompt in prompts for token in prompt])
        added_tokens = None
        if self._weights.added_tokens is not None:
            found = self._weights.added_tokens.extract_positions(ids)
            added_tokens = AddedTokenPositions(
                found.positions.to(self._device), found.rows.to(self._device)
            )
        input_ids = ids.to(self._device)
        position_ids = torch.cat([torch.arange(length, device=self._device) for length in lengths])
        batch = FlatBatch(
            input_ids, position_ids, lengths, input_ids[:0], input_ids[:0], added_tokens
        )
        was_training, self.training = self.training, False
        try:
            hidden_states = self._forward_layers(batch, self._metadata(batch), save_inputs=False)
        finally:
            self.training = was_training
        last_indices = torch.tensor(lengths, device=self._device).cumsum(0) - 1
        last_states = hidden_states[last_indices]
        normed = torch.empty_like(last_states)
        self._weights.final_norm.forward(last_states, normed)
        token_ids: list[int] = self._weights.head.logits(normed).argmax(dim=1).tolist()
        return token_ids

    def _metadata(self, batch: FlatBatch) -> BatchMetadata:
        # The rotary module takes dtype and device from its first argument.
        like = torch.empty(0, dtype=torch.float32, device=self._device)
        cos, sin = self._rotary(like, batch.position_ids.unsqueeze(0))
        half_dim = self.shape.head_dim // 2
        seed = None
        if self.training and self._dropout_probability:
            # From the host's generator, whose state is saved in checkpoints.
            seed = int(torch.randint(2**31, ()).item()) << 31
        return BatchMetadata(
            Segments.from_lengths(batch.segment_lengths, self._device),
            cos[0, :, :half_dim].contiguous(),
            sin[0, :, :half_dim].contiguous(),
            seed,
        )

    def _forward_layers(
        self, batch: FlatBatch, metadata: BatchMetadata, save_inputs: bool
    ) -> torch.Tensor:
        """Return the hidden states after the last layer, ``(n, hidden_size)``."""
        state = embedding_lookup(self._weights.embedding, batch.input_ids, self._dtype)
        if self._weights.added_tokens is not None and batch.added_tokens is not None:
            self._weights.added_tokens.write_embeddings(state, batch.added_tokens)
        for index, tensors in self._weights.layers.iterate(range(self.shape.n_layers)):
            if save_inputs:
                self._activations.save(index, state)
            state = self._layers[index].forward(state, tensors, metadata, self._tiling)
        return state

    def _backward_layers(self, grad: torch.Tensor, metadata: BatchMetadata) -> None:
        """Turn the gradient of the last hidden states into that of the embeddings, in place."""
        order = range(self.shape.n_layers - 1, -1, -1)
        for index, tensors in self._weights.layers.iterate(order):
            self._activations.prefetch(index)
            if self.settings.prefetch_activations and index:
                self._activations.prefetch(index - 1)
            self._layers[index].backward(
                partial(self._activations.fetch, index),
                grad, tensors, metadata, self._tiling,
            )  # fmt: skip
            self._activations.free(index)

    def _loss_and_grads(
        self, hidden_states: torch.Tensor, batch: FlatBatch, with_grad: bool
    ) -> LossAndGrads:
        return self._weights.head.loss(
            hidden_states, batch.positions, batch.targets, self._weights.final_norm,
            self.settings.loss_chunk_tokens, with_grad,
        )  # fmt: skip


class _DecoderLoss(torch.autograd.Function):
    """The complete decoder as one autograd function; adds gradients to ``.grad`` directly."""

    @staticmethod
    def forward(
        ctx: Any, decoder: LayerwiseDecoder, batch: FlatBatch, *trained: torch.Tensor
    ) -> torch.Tensor:
        """Compute the loss; save the layers' inputs and the gradient of the last hidden states."""
        del trained  # at least one, so that autograd calls backward
        ctx.decoder, ctx.batch_metadata, ctx.batch = decoder, decoder._metadata(batch), batch
        loss, ctx.grad_hidden, ctx.grad_added_head = decoder._loss_and_grads(
            decoder._forward_layers(batch, ctx.batch_metadata, save_inputs=True),
            batch,
            with_grad=True,
        )
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Backpropagate from the last layer to the first."""
        decoder: LayerwiseDecoder = ctx.decoder
        if not decoder.returns_gradients:
            _DecoderLoss._accumulate_grads(ctx, grad_outputs[0])
            return None, None, None
        previous_grads = [parameter.grad for parameter in decoder._trained]
        for parameter in decoder._trained:
            parameter.grad = None
        _DecoderLoss._accumulate_grads(ctx, grad_outputs[0])
        grads = [parameter.grad for parameter in decoder._trained]
        for parameter, previous_grad in zip(decoder._trained, previous_grads, strict=True):
            parameter.grad = previous_grad
        return None, None, *grads

    @staticmethod
    def _accumulate_grads(ctx: Any, grad_loss: torch.Tensor) -> None:
        grad, ctx.grad_hidden = ctx.grad_hidden, None
        ctx.decoder._backward_layers(grad.mul_(grad_loss), ctx.batch_metadata)
        added_tokens = ctx.decoder._weights.added_tokens
        if added_tokens is not None:
            added_tokens.accumulate_grads(
                grad, ctx.batch.added_tokens, ctx.grad_added_head.mul_(grad_loss)
            )
