"""An adapter on the tiny Llama that changes its answers, without training it."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from the_block_llm.models.adapter.added_embedding_layers import attach_added_embeddings
from the_block_llm.models.adapter.added_embeddings import InitialTokenEmbeddings

MARKS = {"<|code_start|>": 260, "<|analysis|>": 261, "<|question|>": 262}


def with_noise_adapter(model: LlamaForCausalLM, scale: float, seed: int = 1) -> PeftModel:
    """An adapter whose second factor is noise of size ``scale``; at 0 it changes nothing."""
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"])
    adapted = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return adapted.eval()


def with_marks(model: PeftModel, seed: int = 5) -> PeftModel:
    """Vectors for three added tokens beside the adapter, of noise."""
    rows = torch.randn(3, 64, generator=torch.Generator().manual_seed(seed)) * 0.1
    attach_added_embeddings(model, "default", InitialTokenEmbeddings(260, rows, None))
    return model
