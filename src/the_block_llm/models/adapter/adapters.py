"""LoRA adapters on a quantized base model: attach new ones, load trained ones."""

import logging
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from the_block_llm.errors import AdapterError, AdapterTargetError
from the_block_llm.models.adapter.added_embedding_layers import (
    attach_added_embeddings,
    load_added_embeddings,
)
from the_block_llm.models.adapter.added_embeddings import InitialTokenEmbeddings
from the_block_llm.models.adapter.manifest import WEIGHTS_NAME, AdapterFolder, open_adapter
from the_block_llm.models.base.quantized_loading import load_base_model
from the_block_llm.models.base.sources import base_revision, prepare_base_model
from the_block_llm.models.profiles import LoraSettings, ModelProfile

_log = logging.getLogger(__name__)


def targetable_layers(model: nn.Module) -> set[str]:
    """Return the last name components of the Linear layers that LoRA can target."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def check_targets(model: nn.Module, lora: LoraSettings, model_name: str) -> None:
    """Check that every LoRA target matches a layer.

    peft accepts the targets if any of them matches, and silently ignores the others.

    Raises:
        AdapterTargetError: A target matches no layer; the message lists the names that exist.
    """
    if lora.target_modules == "all-linear":
        return
    available = targetable_layers(model)
    missing = sorted(set(lora.target_modules) - available)
    if missing:
        raise AdapterTargetError(
            f"The LoRA targets {missing} match no layer of {model_name}. Layers that can be "
            f"targeted: {sorted(available)}. Correct lora.target_modules of the profile."
        )


def attach_adapter(
    model: PreTrainedModel,
    profile: ModelProfile,
    seed: int,
    initial_embeddings: InitialTokenEmbeddings | None = None,
) -> PeftModel:
    """Attach an untrained LoRA adapter to the profile's target layers.

    It does not change the model's output: its second factor is initialized to zero.

    Args:
        model: The profile's base model.
        profile: Profile with the LoRA settings.
        seed: Seed of the first factor.
        initial_embeddings: Initial embeddings of added tokens, trained as well.

    Raises:
        AdapterTargetError: A target matches no layer.
    """
    check_targets(model, profile.lora, profile.name)
    targets = profile.lora.target_modules
    settings = LoraConfig(
        r=profile.lora.r,
        lora_alpha=profile.lora.alpha,
        lora_dropout=profile.lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    adapted: PeftModel = get_peft_model(model, settings)
    if initial_embeddings is not None:
        attach_added_embeddings(adapted, "default", initial_embeddings)
    trainable, total = adapted.get_nb_trainable_parameters()
    _log.info(
        "Training %s of %s parameters (%.2f %%)", f"{trainable:,}", f"{total:,}",
        100 * trainable / total,
    )  # fmt: skip
    return adapted


def load_model_with_adapter(
    profile: ModelProfile, adapter: Path, device: torch.device | None = None
) -> PeftModel:
    """Load the profile's base model with the trained adapter in ``adapter``.

    Within ``model.disable_adapter()`` the model behaves as the base model.

    Raises:
        AdapterError: The folder is incomplete, or belongs to another profile or other weights.
        ModelUnavailableError: The base weights are not available.
    """
    return load_adapter(load_base_model(profile, device), profile, adapter)


def _check_base_weights(opened: AdapterFolder, profile: ModelProfile) -> None:
    """Check that the profile's weights are those that the adapter was trained on."""
    trained_on = opened.manifest.base_revision
    location = prepare_base_model(profile)
    current = base_revision(profile, location)
    # Earlier versions recorded "local folder" without a fingerprint.
    if "unknown" in (trained_on, current) or trained_on in (current, "local folder"):
        return
    raise AdapterError(
        f"The adapter {opened.path} was trained on other weights ({opened.manifest.base_model}, "
        f"{trained_on}) than the current ones of {profile.name} ({location}, {current}), and does "
        f"not work with these. Set models.{profile.name}.folder or hub_revision back, or train "
        "again with `kedro run --pipeline=qlora_train`."
    )


def load_adapter(
    model: PreTrainedModel | PeftModel, profile: ModelProfile, adapter: Path, name: str = "default"
) -> PeftModel:
    """Load the trained adapter in ``adapter`` into ``model`` and activate it.

    Args:
        model: The profile's base model, or a PeftModel, whose other adapters are deactivated.
        profile: Profile of the model.
        adapter: A complete adapter folder.
        name: Name for ``model.set_adapter(name)``; without dots.

    Raises:
        AdapterError: The folder is incomplete, or belongs to another profile or other weights.
    """
    opened = open_adapter(adapter)
    if opened.manifest.profile != profile.name:
        raise AdapterError(
            f"The adapter {adapter} was trained for the profile {opened.manifest.profile!r}, not "
            f"for {profile.name!r}. Choose it with --params=model={opened.manifest.profile}, or "
            "train one for this profile with `kedro run --pipeline=qlora_train`."
        )
    _check_base_weights(opened, profile)
    # All files before the model is changed: `kedro adapters prune` may remove them just now.
    try:
        settings = LoraConfig.from_pretrained(str(adapter))
        weights = load_file(adapter / WEIGHTS_NAME)
    except (OSError, ValueError):
        open_adapter(adapter)  # its error says so
        raise
    settings.inference_mode = True
    # Added below: peft itself requires a resized vocabulary and copies the matrices.
    token_indices, settings.trainable_token_indices = settings.trainable_token_indices, None
    if isinstance(model, PeftModel):
        model.add_adapter(name, settings)
    else:
        model = PeftModel(model, settings, adapter_name=name)
    if token_indices is not None:
        base = model.get_base_model()
        saved = load_added_embeddings(base, token_indices, weights)
        base_device = base.get_input_embeddings().weight.device
        attach_added_embeddings(
            model,
            name,
            InitialTokenEmbeddings(
                saved.first_id,
                saved.embedding.to(base_device),
                None if saved.head is None else saved.head.to(base_device),
            ),
        )
    set_peft_model_state_dict(model, weights, adapter_name=name)
    model.set_adapter(name, inference_mode=True)
    return model.eval()
