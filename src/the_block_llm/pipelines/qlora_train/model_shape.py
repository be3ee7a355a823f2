"""The shape of a model without its weights: what an adapter on it would hold."""

from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from the_block_llm.models.adapters import check_targets
from the_block_llm.models.base_models import from_pretrained, prepare_base_model, quiet_loading
from the_block_llm.models.profiles import ModelProfile


@dataclass(frozen=True)
class AdapterShape:
    """Sizes of an adapter that is yet to be made."""

    trained_parameters: int
    base_parameters: int


def adapter_shape(profile: ModelProfile) -> AdapterShape:
    """Count what the profile's LoRA settings would train.

    Raises:
        AdapterTargetError: A target matches no layer; nothing has been loaded yet.
        ModelUnavailableError: Not even the configuration can be had.
    """
    location = prepare_base_model(profile)
    with quiet_loading():
        config = from_pretrained(
            profile,
            lambda: AutoConfig.from_pretrained(
                location, revision=profile.hub_revision or "main", trust_remote_code=False
            ),
        )
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
    return AdapterShape(
        trained_parameters=trained,
        base_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
