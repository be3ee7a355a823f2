"""Loading a base model with its Linear layers in 4 bits (NF4, double quantisation)."""

from typing import Final

import torch
from bitsandbytes.nn import Linear4bit
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from the_block_llm.models.base.sources import (
    from_pretrained,
    prepare_base_model,
    quiet_loading,
    revision_of,
)
from the_block_llm.models.profiles import ModelProfile

# Of a weight in 4 bits, with the scales of its blocks of 64.
_PACKED_BYTES: Final = 0.52


def pick_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU; float32 on the CPU, where bfloat16 is some fifteen times slower."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def quantized_bytes(profile: ModelProfile) -> int:
    """Bytes of the profile's weights as :func:`load_base_model` holds them on a GPU.

    Raises:
        ModelUnavailableError: Not even the configuration can be had.
    """
    location = prepare_base_model(profile)
    with quiet_loading(), torch.device("meta"):
        config = from_pretrained(
            profile,
            lambda: AutoConfig.from_pretrained(location, revision=profile.hub_revision or "main"),
        )
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    packed = sum(
        layer.weight.numel()
        for layer in model.modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head
    )
    whole = sum(parameter.numel() for parameter in model.parameters())
    return int(_PACKED_BYTES * packed + 2 * (whole - packed))


def load_base_model(
    profile: ModelProfile,
    device: torch.device | None = None,
    quant_storage: torch.dtype = torch.uint8,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """Load the profile's model, frozen, its Linear layers quantised.

    Embedding, norms and head keep the compute type: nothing frozen is cast to float32 on
    a GPU, which would cost 2 GiB for an 8B model.

    Args:
        profile: Which model.
        device: Where to; by default :func:`pick_device`.
        quant_storage: As what packed 4-bit weights count; FSDP2 wants one type for all.
        dtype: To compute in; by default :func:`compute_dtype` of the device.

    Raises:
        ModelUnavailableError: The weights cannot be had.
    """
    device = device or pick_device()
    dtype = dtype or compute_dtype(device)
    location = prepare_base_model(profile)
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=quant_storage,
    )
    with quiet_loading():
        model: PreTrainedModel = from_pretrained(
            profile,
            lambda: AutoModelForCausalLM.from_pretrained(
                location,
                revision=revision_of(profile),
                quantization_config=quantisation,
                dtype=dtype,
                device_map={"": str(device)},
                attn_implementation="sdpa",
                use_safetensors=True,
                trust_remote_code=False,
            ),
        )
    model.requires_grad_(False)
    return model


def disable_inference_repacking(model: nn.Module) -> None:
    """Forbid bitsandbytes to repack 4-bit weights for inference.

    On processors with AVX512-BF16 the first pass without gradients repacks the weights for a
    faster kernel that rounds to bfloat16 and has no backward: training after a validation would
    lose the gradient through every quantised layer, with a mere warning.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
