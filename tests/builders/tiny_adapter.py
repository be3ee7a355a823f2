"""Untrained adapters of the tiny Llama that change its answers."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from the_block_llm.models.adapter.added_embedding_layers import attach_added_embeddings
from the_block_llm.models.adapter.added_embeddings import InitialTokenEmbeddings

ADDED_TOKENS = {"<|code_start|>": 260, "<|analysis|>": 261, "<|question|>": 262}


def with_noise_adapter(model: LlamaForCausalLM, scale: float, seed: int = 1) -> PeftModel:
    """Add an adapter with random B matrices of size ``scale``; with 0 it has no effect."""
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"])
    adapted = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return adapted.eval()


def with_added_tokens(model: PeftModel, seed: int = 5) -> PeftModel:
    """Add random embeddings for three added tokens to the adapter."""
    rows = torch.randn(3, 64, generator=torch.Generator().manual_seed(seed)) * 0.1
    attach_added_embeddings(model, "default", InitialTokenEmbeddings(260, rows, None))
    return model
