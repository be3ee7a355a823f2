"""Builds a peft model for the Trainer whose frozen weights are in the layerwise engine."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, MethodType
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutputWithPast

from the_block_llm.models.adapter.adapters import attach_adapter
from the_block_llm.models.adapter.added_embedding_layers import active_added_embeddings
from the_block_llm.models.adapter.added_embeddings import initial_embeddings
from the_block_llm.models.base.quantized_loading import compute_dtype
from the_block_llm.models.base.sources import load_config, prepare_base_model
from the_block_llm.models.layerwise.added_tokens import AddedTokenPositions, AddedTokens
from the_block_llm.models.layerwise.architecture import DecoderShape, decoder_shape
from the_block_llm.models.layerwise.engine import (
    EngineSettings,
    FlatBatch,
    FrozenWeights,
    LayerwiseDecoder,
)
from the_block_llm.models.layerwise.kernels.norm import Norm
from the_block_llm.models.layerwise.lm_head import LMHead, pinned_copy
from the_block_llm.models.layerwise.lora_linear import LoraPair
from the_block_llm.models.layerwise.offload.checkpoint_files import CheckpointFiles, open_checkpoint
from the_block_llm.models.layerwise.offload.nf4_layout import (
    LayerLayout,
    quantized_layers,
    supports_nf4,
)
from the_block_llm.models.layerwise.offload.weight_streaming import WeightStreamer
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.progress import progress_bar


def read_shape(profile: ModelProfile) -> DecoderShape | None:
    """Return the profile's decoder shape, or None if the engine does not support it."""
    shape = decoder_shape(load_config(profile))
    return shape if shape is not None and supports_nf4(shape) else None


def load_layerwise_model(
    profile: ModelProfile,
    settings: EngineSettings,
    device: torch.device,
    seed: int,
    adapter_dtype: torch.dtype = torch.float32,
    cache_folder: Path | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    added_tokens: Mapping[str, int] = MappingProxyType({}),
) -> PeftModel:
    """Build the profile's model with a new adapter, its frozen weights in the engine.

    The model saves, loads and counts parameters like any peft model. ``model(…, labels=…)``
    returns the loss only: its base layers have no weights.

    Args:
        profile: The model; its architecture must be supported (:func:`read_shape`).
        settings: Trade-offs between memory and time.
        device: Where to compute.
        seed: Seed of the adapter's A matrices.
        adapter_dtype: Of the adapter's parameters.
        cache_folder: Where the quantized layers are cached; None for no cache.
        tokenizer: The profile's tokenizer, required with ``added_tokens``.
        added_tokens: Ids by token of those whose vectors are trained as well.

    Raises:
        ModelUnavailableError: The weights cannot be loaded.
        AdapterTargetError: A target matches no layer.
    """
    config = load_config(profile)
    shape = decoder_shape(config)
    if shape is None:
        raise ValueError(f"The layerwise engine does not support {config.model_type}.")
    dtype = compute_dtype(device)
    files = open_checkpoint(profile, prepare_base_model(profile))
    initial = None
    if added_tokens:
        assert tokenizer is not None  # noqa: S101  # it made the ids
        # Freed here and read again after the layers are loaded: host memory may be small.
        matrices = _read_embedding(files, dtype), _read_untied_head(files, shape, dtype)
        initial = initial_embeddings(added_tokens, tokenizer, *matrices, profile.name)
        del matrices
    model = attach_adapter(_model_without_weights(config), profile, seed, initial)
    embeddings = active_added_embeddings(model)
    engine_tokens = None if embeddings is None else AddedTokens(embeddings, shape.vocab_size)
    rotary = model.get_base_model().get_decoder().rotary_emb.to(device)
    suffixes = ("weight",) if shape.norm == "rms" else ("weight", "bias")
    final_norm = {
        suffix: files.read(f"model.norm.{suffix}").to(device, dtype) for suffix in suffixes
    }
    engine = LayerwiseDecoder(
        shape,
        FrozenWeights(
            _load_layers(files, shape, settings, device, dtype, cache_folder),
            *_load_embedding_and_head(files, shape, settings, device, dtype, engine_tokens),
            Norm(final_norm["weight"], final_norm.get("bias"), shape.norm_eps),
            engine_tokens,
        ),
        settings,
        _lora_pairs(model, shape),
        profile.lora.dropout,
        rotary,
        dtype,
    )
    # Last: the adapter is not needed on the device while weights are loaded and quantized.
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(device, adapter_dtype)
    _patch_forward(model.get_base_model(), engine)
    model.layerwise = engine
    return model


def _model_without_weights(config: Any) -> PreTrainedModel:
    """Return the architecture with empty frozen parameters.

    peft reads the sizes of a Linear layer, never its weight; and nothing that moves or casts the
    model can affect the engine's weights.
    """
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    for module in model.modules():
        for name, _ in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(0), requires_grad=False))
    decoder = model.get_decoder()
    # Its frequencies are computed, not loaded, and have no data on the meta device.
    decoder.rotary_emb = type(decoder.rotary_emb)(config)
    return model


def _read_embedding(files: CheckpointFiles, dtype: torch.dtype) -> torch.Tensor:
    return files.read("model.embed_tokens.weight").to(dtype)


def _read_untied_head(
    files: CheckpointFiles, shape: DecoderShape, dtype: torch.dtype
) -> torch.Tensor | None:
    """Return the LM head, or None if it is tied to the embedding."""
    if shape.tie_word_embeddings or "lm_head.weight" not in files:
        return None
    return files.read("lm_head.weight").to(dtype)


def _load_layers(
    files: CheckpointFiles,
    shape: DecoderShape,
    settings: EngineSettings,
    device: torch.device,
    dtype: torch.dtype,
    cache_folder: Path | None,
) -> WeightStreamer:
    layout = LayerLayout(shape, dtype)
    streamer = WeightStreamer(layout, device, settings.n_resident_layers)
    with progress_bar("loading layers", total=shape.n_layers) as bar:
        for buffer in quantized_layers(files, layout, device, cache_folder):
            streamer.add_layer(buffer)
            bar.advance(1)
    return streamer


def _load_embedding_and_head(
    files: CheckpointFiles,
    shape: DecoderShape,
    settings: EngineSettings,
    device: torch.device,
    dtype: torch.dtype,
    added_tokens: AddedTokens | None,
) -> tuple[torch.Tensor, LMHead]:
    """Return the embedding in host memory, pinned for a GPU, and the LM head."""
    on_gpu = device.type == "cuda"
    embedding = _read_embedding(files, dtype)
    if on_gpu:
        embedding = pinned_copy(embedding)
    head = _read_untied_head(files, shape, dtype)
    if head is not None and on_gpu and not settings.is_head_resident:
        head = pinned_copy(head)
    weight = embedding if head is None else head
    return embedding, LMHead(weight, device, settings.is_head_resident, added_tokens)


def _lora_pairs(model: PeftModel, shape: DecoderShape) -> list[dict[str, LoraPair]]:
    """Return, per layer, the LoRA pairs by Linear layer name."""
    layer_pairs: list[dict[str, LoraPair]] = []
    for layer in model.get_base_model().get_decoder().layers:
        pairs = {}
        for linear in shape.linears():
            module = layer.get_submodule(linear.name)
            if hasattr(module, "lora_A"):
                pairs[linear.name] = LoraPair(
                    module.lora_A["default"].weight,
                    module.lora_B["default"].weight,
                    float(module.scaling["default"]),
                )
        layer_pairs.append(pairs)
    return layer_pairs


def _patch_forward(model: PreTrainedModel, engine: LayerwiseDecoder) -> None:
    """Make ``model(…)`` return the engine's loss."""

    def forward(
        self: PreTrainedModel,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        position_ids: torch.Tensor,
        positions: torch.Tensor,
        targets: torch.Tensor,
        segment_lengths: list[int],
        added_positions: torch.Tensor | None = None,
        added_rows: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **options: Any,
    ) -> Any:
        del labels, options  # the Trainer counts the labels; peft passes options to every model
        engine.training = self.training
        added_tokens = None
        if added_positions is not None and added_rows is not None:
            added_tokens = AddedTokenPositions(added_positions, added_rows)
        loss = engine.loss(
            FlatBatch(
                input_ids[0], position_ids[0], segment_lengths, positions, targets, added_tokens
            )
        )
        divisor = targets.numel() if num_items_in_batch is None else num_items_in_batch
        if isinstance(divisor, torch.Tensor):
            divisor = divisor.to(loss.device).clamp(min=1)
        else:
            divisor = max(divisor, 1)
        return CausalLMOutputWithPast(loss=loss / divisor)

    model.forward = MethodType(forward, model)
