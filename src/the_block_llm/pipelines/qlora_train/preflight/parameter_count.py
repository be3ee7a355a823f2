"""Parameter counts of a base model and its adapter, without loading the weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM

from the_block_llm.models.adapter.adapters import check_targets
from the_block_llm.models.adapter.added_embeddings import first_added_id
from the_block_llm.models.base.sources import load_config, quiet_loading
from the_block_llm.models.profiles import ModelProfile


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of trained and of frozen parameters."""

    trained_parameters: int
    base_parameters: int


def count_parameters(profile: ModelProfile, added_tokens: Mapping[str, int]) -> ParameterCounts:
    """Count the parameters of the base model, of LoRA and of the added tokens' embeddings.

    Raises:
        AdapterTargetError: A target matches no layer.
        ProfileError: The ids of the added tokens do not follow the vocabulary without a gap.
        ModelUnavailableError: The model's configuration cannot be loaded.
    """
    with quiet_loading():
        config = load_config(profile)
        # Shapes only: no memory is allocated.
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    check_targets(model, profile.lora, profile.name)
    head = model.get_output_embeddings()
    targets = profile.lora.target_modules
    trained = sum(
        profile.lora.r * (layer.in_features + layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
        and layer is not head
        and (targets == "all-linear" or name.rpartition(".")[2] in targets)
    )
    if added_tokens:
        embedding = model.get_input_embeddings().weight
        first_added_id(added_tokens, embedding.shape[0], profile.name)
        matrices = 1 if config.tie_word_embeddings else 2
        trained += matrices * len(added_tokens) * embedding.shape[1]
    return ParameterCounts(
        trained_parameters=trained,
        base_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
