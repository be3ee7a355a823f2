"""A seeded Llama small enough to train in a test, saved as a folder with a real tokenizer."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from the_block_llm.models.profiles import LoraSettings, ModelProfile, TrainingValues

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte and four special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
    )


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    """Return a float32 Llama: two layers, grouped-query attention, tied embeddings."""
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            initializer_range=0.2,  # large enough that the model can learn with frozen embeddings
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=3,
        )
    )


def save_tiny_llama(folder: Path, seed: int = 0) -> Path:
    """Save model and tokenizer in the format of ``from_pretrained``."""
    tiny_llama(seed).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def tiny_profile(folder: Path, **training: object) -> ModelProfile:
    """Return a profile for the folder of :func:`save_tiny_llama`."""
    values = {
        "learning_rate": 5e-3,
        "effective_batch_rows": 4,
        "target_tokens": 1000,
        "min_epochs": 1,
        "max_epochs": 2,
        "warmup_ratio": 0.0,
        "logging_steps": 1,
        "eval_steps": 2,
        "save_steps": 2,
    }
    return ModelProfile(
        name="tiny",
        role="advisor",
        folder=str(folder),
        document_end="<|endoftext|>",
        pad_token="<|pad|>",
        stop_tokens=("<|im_end|>", "<|endoftext|>"),
        context_tokens=128,
        overlap_tokens=16,
        lora=LoraSettings(
            r=4, alpha=8, dropout=0.0, target_modules=("q_proj", "v_proj", "down_proj")
        ),
        training=TrainingValues.model_validate({**values, **training}),
    )
