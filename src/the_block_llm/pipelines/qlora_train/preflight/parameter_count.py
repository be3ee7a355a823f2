"""The shape of a model without its weights: what an adapter on it would hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from transformers import AutoModelForCausalLM

from the_block_llm.models.adapter.adapters import check_targets
from the_block_llm.models.adapter.added_embeddings import first_added_id
from the_block_llm.models.base.sources import load_config, quiet_loading
from the_block_llm.models.profiles import ModelProfile


@dataclass(frozen=True)
class AdapterShape:
    """Sizes of an adapter that is yet to be made."""

    trained_parameters: int
    base_parameters: int


def adapter_shape(
    profile: ModelProfile, added_tokens: Mapping[str, int] = MappingProxyType({})
) -> AdapterShape:
    """Count what would be trained: LoRA, and the vectors of added tokens.

    Raises:
        AdapterTargetError: A target matches no layer; nothing has been loaded yet.
        ProfileError: The added tokens leave a gap behind the model's own.
        ModelUnavailableError: Not even the configuration can be had.
    """
    with quiet_loading():
        config = load_config(profile)
        # Shapes without memory.
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    check_targets(model, profile.lora, profile.name)
    head = model.get_output_embeddings()
    wanted = profile.lora.target_modules
    trained = sum(
        profile.lora.r * (layer.in_features + layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
        and layer is not head
        and (wanted == "all-linear" or name.rpartition(".")[2] in wanted)
    )
    if added_tokens:
        embedding = model.get_input_embeddings().weight
        first_added_id(added_tokens, embedding.shape[0], profile.name)
        matrices = 1 if config.tie_word_embeddings else 2
        trained += matrices * len(added_tokens) * embedding.shape[1]
    return AdapterShape(
        trained_parameters=trained,
        base_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
