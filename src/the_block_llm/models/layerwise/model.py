"""A model for the Trainer and peft whose frozen weights live in the layerwise engine."""

import logging
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
from the_block_llm.models.layerwise.added_tokens import AddedPlaces, AddedTokens
from the_block_llm.models.layerwise.architecture import DecoderShape, decoder_shape
from the_block_llm.models.layerwise.chunked_loss import VocabularyHead, pinned
from the_block_llm.models.layerwise.engine import (
    EngineSettings,
    FlatRows,
    FrozenParts,
    LayerwiseDecoder,
)
from the_block_llm.models.layerwise.kernels.norms import Norm
from the_block_llm.models.layerwise.lora_linear import LowRank
from the_block_llm.models.layerwise.offload.checkpoint_files import CheckpointFiles, open_checkpoint
from the_block_llm.models.layerwise.offload.nf4_layout import LayerLayout, can_pack, packed_layers
from the_block_llm.models.layerwise.offload.weight_streaming import LayerStore
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.progress import progress_bar

_log = logging.getLogger(__name__)


def read_shape(profile: ModelProfile) -> DecoderShape | None:
    """The profile's decoder, or None where only plain training knows it."""
    shape = decoder_shape(load_config(profile))
    return shape if shape is not None and can_pack(shape) else None


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
    """Build the profile's model with a fresh adapter, its frozen weights in the engine.

    The object saves, loads and counts like any peft model. ``model(…, labels=…)`` gives the
    loss; its base layers are hollow, so it answers nothing else.

    Args:
        profile: Which model; its architecture must be known (:func:`read_shape`).
        settings: How memory is traded for time.
        device: Where to compute.
        seed: Of the adapter's first factor.
        adapter_dtype: Of the adapter's parameters.
        cache_folder: Where the quantised copy is kept for the next start; none: nowhere.
        tokenizer: Of the profile, where tokens were added.
        added_tokens: Ids by token of those whose vectors are trained as well.

    Raises:
        ModelUnavailableError: The weights cannot be had.
        AdapterTargetError: A target matches no layer.
    """
    config = load_config(profile)
    shape = decoder_shape(config)
    if shape is None:
        raise ValueError(f"the layerwise engine does not know {config.model_type}")
    dtype = compute_dtype(device)
    files = open_checkpoint(profile, prepare_base_model(profile))
    start = None
    if added_tokens:
        assert tokenizer is not None  # noqa: S101  # it made the ids
        # Read for a moment, and again once the layers are loaded: a host may be small.
        matrices = _embedding(files, dtype), _own_head(files, shape, dtype)
        start = initial_embeddings(added_tokens, tokenizer, *matrices, profile.name)
        del matrices
    model = attach_adapter(_hollow_model(config), profile, seed, start)
    rows = active_added_embeddings(model)
    added = None if rows is None else AddedTokens(rows, shape.vocabulary)
    rotary = model.get_base_model().get_decoder().rotary_emb.to(device)
    names = ("weight",) if shape.norm == "rms" else ("weight", "bias")
    vectors = {name: files.read(f"model.norm.{name}").to(device, dtype) for name in names}
    engine = LayerwiseDecoder(
        shape,
        FrozenParts(
            _layers(files, shape, settings, device, dtype, cache_folder),
            *_vocabulary(files, shape, settings, device, dtype, added),
            Norm(vectors["weight"], vectors.get("bias"), shape.norm_eps),
            added,
        ),
        settings,
        _low_ranks(model, shape),
        profile.lora.dropout,
        rotary,
        dtype,
    )
    # Last: while weights are loaded and quantised, nothing else needs to be there.
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(device, adapter_dtype)
    _answer_with(engine, model.get_base_model())
    model.layerwise = engine
    return model


def _hollow_model(config: Any) -> PreTrainedModel:
    """The architecture without its weights: every frozen parameter has no elements.

    peft reads a Linear layer's sizes, never its weight; and nothing that moves or casts the
    model can then touch what the engine holds.
    """
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    for module in model.modules():
        for name, _ in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(0), requires_grad=False))
    decoder = model.get_decoder()
    # Its frequencies are computed, not loaded, and are not there on the meta device.
    decoder.rotary_emb = type(decoder.rotary_emb)(config)
    return model


def _embedding(files: CheckpointFiles, dtype: torch.dtype) -> torch.Tensor:
    return files.read("model.embed_tokens.weight").to(dtype)


def _own_head(
    files: CheckpointFiles, shape: DecoderShape, dtype: torch.dtype
) -> torch.Tensor | None:
    """The output matrix; none where it is tied to the embedding."""
    if shape.tied or "lm_head.weight" not in files:
        return None
    return files.read("lm_head.weight").to(dtype)


def _layers(
    files: CheckpointFiles,
    shape: DecoderShape,
    settings: EngineSettings,
    device: torch.device,
    dtype: torch.dtype,
    cache_folder: Path | None,
) -> LayerStore:
    layout = LayerLayout(shape, dtype)
    store = LayerStore(layout, device, settings.n_resident)
    with progress_bar("loading layers", total=shape.n_layers) as bar:
        for buffer in packed_layers(files, layout, device, cache_folder):
            store.add(buffer)
            bar.advance(1)
    return store


def _vocabulary(
    files: CheckpointFiles,
    shape: DecoderShape,
    settings: EngineSettings,
    device: torch.device,
    dtype: torch.dtype,
    added: AddedTokens | None,
) -> tuple[torch.Tensor, VocabularyHead]:
    """Embedding and output matrix where they are read from."""
    on_gpu = device.type == "cuda"
    embedding = _embedding(files, dtype)
    if on_gpu:
        embedding = pinned(embedding)
    head = _own_head(files, shape, dtype)
    if head is not None and on_gpu and not settings.head_resident:
        head = pinned(head)
    weight = embedding if head is None else head
    return embedding, VocabularyHead(weight, device, settings.head_resident, added)


def _low_ranks(model: PeftModel, shape: DecoderShape) -> list[dict[str, LowRank]]:
    """By layer, the LoRA pairs by the names of their Linear layers."""
    found: list[dict[str, LowRank]] = []
    for layer in model.get_base_model().get_decoder().layers:
        pairs = {}
        for linear in shape.linears():
            module = layer.get_submodule(linear.name)
            if hasattr(module, "lora_A"):
                pairs[linear.name] = LowRank(
                    module.lora_A["default"].weight,
                    module.lora_B["default"].weight,
                    float(module.scaling["default"]),
                )
        found.append(pairs)
    return found


def _answer_with(engine: LayerwiseDecoder, model: PreTrainedModel) -> None:
    """Let ``model(…)`` give the engine's loss."""

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
        added = None
        if added_positions is not None and added_rows is not None:
            added = AddedPlaces(added_positions, added_rows)
        total = engine.loss(
            FlatRows(input_ids[0], position_ids[0], segment_lengths, positions, targets, added)
        )
        divisor = targets.numel() if num_items_in_batch is None else num_items_in_batch
        if isinstance(divisor, torch.Tensor):
            divisor = divisor.to(total.device).clamp(min=1)
        else:
            divisor = max(divisor, 1)
        return CausalLMOutputWithPast(loss=total / divisor)

    model.forward = MethodType(forward, model)
