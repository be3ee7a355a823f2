"""LoRA adapters on a quantised base: attaching fresh ones, loading trained ones."""

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
    """Last name components of the Linear layers that an adapter can stand beside."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def check_targets(model: nn.Module, lora: LoraSettings, model_name: str) -> None:
    """Make sure that every requested target matches a layer.

    peft alone is content when one of several targets matches, and then trains less than
    was asked for without a word.

    Raises:
        AdapterTargetError: With the names that exist.
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
    """Put fresh, trainable LoRA layers beside the profile's targets.

    A fresh adapter changes nothing: its second factor is zero.

    Args:
        model: The profile's base.
        profile: With the adapter's settings.
        seed: Of its first factor.
        initial_embeddings: Vectors of added tokens, to be trained as well.

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


def load_with_adapter(
    profile: ModelProfile, adapter: Path, device: torch.device | None = None
) -> PeftModel:
    """Load the profile's base with the trained adapter in ``adapter``.

    With ``model.disable_adapter()`` the same object answers as the base model.

    Raises:
        AdapterError: The folder is incomplete, or made for another profile.
        ModelUnavailableError: The base weights cannot be had.
    """
    return add_adapter(load_base_model(profile, device), profile, adapter)


def _check_base(opened: AdapterFolder, profile: ModelProfile) -> None:
    """Make sure that the profile's weights are those that the adapter was trained beside."""
    trained = opened.manifest.base_revision
    location = prepare_base_model(profile)
    here = base_revision(profile, location)
    # Adapters of earlier versions say no more than that it was a folder.
    if "unknown" in (trained, here) or trained in (here, "local folder"):
        return
    raise AdapterError(
        f"The adapter {opened.path} was trained over other weights ({opened.manifest.base_model}, "
        f"{trained}) than those of {profile.name} now ({location}, {here}), and would say nothing "
        f"sensible over them. Set models.{profile.name}.folder or hub_revision back to those, or "
        "train anew with `kedro run --pipeline=qlora_train`."
    )


def add_adapter(
    model: PreTrainedModel | PeftModel, profile: ModelProfile, adapter: Path, name: str = "default"
) -> PeftModel:
    """Put the trained adapter in ``adapter`` beside the layers of ``model`` and switch it on.

    Args:
        model: The profile's base, plain or with other adapters, which stay and are switched off.
        profile: Whose model it is.
        adapter: A complete adapter folder.
        name: To switch to it by, ``model.set_adapter(name)``; without dots.

    Raises:
        AdapterError: The folder is incomplete, or made for another profile or other weights.
    """
    opened = open_adapter(adapter)
    if opened.manifest.profile != profile.name:
        raise AdapterError(
            f"The adapter {adapter} was trained for the profile {opened.manifest.profile!r}, not "
            f"for {profile.name!r}. Choose it with --params=model={opened.manifest.profile}, or "
            "train one for this profile with `kedro run --pipeline=qlora_train`."
        )
    _check_base(opened, profile)
    settings = LoraConfig.from_pretrained(str(adapter))
    settings.inference_mode = True
    # Ours to add: peft's way needs a base whose vocabulary was resized, and copies its matrices.
    token_indices, settings.trainable_token_indices = settings.trainable_token_indices, None
    if isinstance(model, PeftModel):
        model.add_adapter(name, settings)
    else:
        model = PeftModel(model, settings, adapter_name=name)
    weights = load_file(adapter / WEIGHTS_NAME)
    if token_indices is not None:
        base = model.get_base_model()
        saved = load_added_embeddings(base, token_indices, weights)
        place = base.get_input_embeddings().weight.device
        attach_added_embeddings(
            model,
            name,
            InitialTokenEmbeddings(
                saved.first_id,
                saved.embedding.to(place),
                None if saved.head is None else saved.head.to(place),
            ),
        )
    set_peft_model_state_dict(model, weights, adapter_name=name)
    model.set_adapter(name, inference_mode=True)
    return model.eval()
