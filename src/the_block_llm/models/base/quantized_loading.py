"""Load a base model with its Linear layers quantized to 4 bits (NF4, double quantization)."""

from typing import Final

import torch
from bitsandbytes.nn import Linear4bit
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from the_block_llm.models.base.sources import (
    call_with_loading_errors,
    prepare_base_model,
    quiet_loading,
    revision_of,
)
from the_block_llm.models.profiles import ModelProfile

# 4 bits, and the scales of the blocks of 64.
_NF4_BYTES_PER_WEIGHT: Final = 0.52


def pick_device() -> torch.device:
    """Return the first GPU, or the CPU if there is none."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def compute_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 for a GPU, float32 for a CPU, where bfloat16 is about 15 times slower."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def quantized_bytes(profile: ModelProfile) -> int:
    """Return the bytes of the profile's weights as loaded by :func:`load_base_model` on a GPU.

    Raises:
        ModelUnavailableError: The model's configuration is not available.
    """
    location = prepare_base_model(profile)
    with quiet_loading(), torch.device("meta"):
        config = call_with_loading_errors(
            profile,
            lambda: AutoConfig.from_pretrained(location, revision=profile.hub_revision or "main"),
        )
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    n_quantized = sum(
        layer.weight.numel()
        for layer in model.modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head
    )
    n_total = sum(parameter.numel() for parameter in model.parameters())
    return int(_NF4_BYTES_PER_WEIGHT * n_quantized + 2 * (n_total - n_quantized))


def load_base_model(
    profile: ModelProfile,
    device: torch.device | None = None,
    quant_storage: torch.dtype = torch.uint8,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """Load the profile's model, frozen, with quantized Linear layers.

    Embedding, norms and head have the compute dtype: frozen weights are not cast to float32 on a
    GPU, which would take 2 GiB for an 8B model.

    Args:
        profile: The model to load.
        device: Target device; by default :func:`pick_device`.
        quant_storage: Storage dtype of the packed 4-bit weights; FSDP2 requires the dtype of the
            other weights.
        dtype: Compute dtype; by default :func:`compute_dtype` of the device.

    Raises:
        ModelUnavailableError: The weights are not available.
    """
    device = device or pick_device()
    dtype = dtype or compute_dtype(device)
    location = prepare_base_model(profile)
    quantization_config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=quant_storage,
    )
    with quiet_loading():
        model: PreTrainedModel = call_with_loading_errors(
            profile,
            lambda: AutoModelForCausalLM.from_pretrained(
                location,
                revision=revision_of(profile),
                quantization_config=quantization_config,
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
    """Keep bitsandbytes from repacking 4-bit weights for inference.

    On CPUs with AVX512-BF16 the first forward pass without gradients repacks the weights for a
    faster kernel that rounds to bfloat16 and has no backward. Training after a validation would
    lose the gradient through every quantized layer, with only a warning.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
