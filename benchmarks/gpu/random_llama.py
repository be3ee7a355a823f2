"""Write a Llama with the exact shape of Llama-3.1-8B and random weights.

    python benchmarks/gpu/random_llama.py FOLDER [--layers 32] [--tokenizer FOLDER]

Speed and memory do not depend on the values of the weights, so no gated download is needed. The
tokenizer, if given, is copied; training needs it, measuring single layers does not.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig


def llama_config(n_layers: int) -> LlamaConfig:
    """Return the config of Llama-3.1-8B-Instruct with ``n_layers`` layers."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=n_layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=131_072,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        rope_theta=500_000.0,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        bos_token_id=128_000,
        eos_token_id=[128_001, 128_008, 128_009],
    )


def write_model(folder: Path, n_layers: int) -> None:
    """Write config and weights, one file per layer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = llama_config(n_layers)
    config.save_pretrained(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device=device).manual_seed(0)
    weight_map: dict[str, str] = {}

    def normal(*size: int) -> torch.Tensor:
        values = torch.empty(size, device=device, dtype=torch.bfloat16)
        return values.normal_(0, 0.02, generator=generator).cpu()

    def save(file_name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, str(folder / file_name), metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, file_name))

    hidden_size, intermediate_size = config.hidden_size, config.intermediate_size
    kv_size = config.num_key_value_heads * config.head_dim
    ones = torch.ones(hidden_size, dtype=torch.bfloat16)
    save(
        "embedding.safetensors",
        {"model.embed_tokens.weight": normal(config.vocab_size, hidden_size)},
    )
    for index in range(n_layers):
        prefix = f"model.layers.{index}."
        save(
            f"layer-{index:02d}.safetensors",
            {
                f"{prefix}self_attn.q_proj.weight": normal(hidden_size, hidden_size),
                f"{prefix}self_attn.k_proj.weight": normal(kv_size, hidden_size),
                f"{prefix}self_attn.v_proj.weight": normal(kv_size, hidden_size),
                f"{prefix}self_attn.o_proj.weight": normal(hidden_size, hidden_size),
                f"{prefix}mlp.gate_proj.weight": normal(intermediate_size, hidden_size),
                f"{prefix}mlp.up_proj.weight": normal(intermediate_size, hidden_size),
                f"{prefix}mlp.down_proj.weight": normal(hidden_size, intermediate_size),
                f"{prefix}input_layernorm.weight": ones.clone(),
                f"{prefix}post_attention_layernorm.weight": ones.clone(),
            },
        )
    save(
        "head.safetensors",
        {
            "lm_head.weight": normal(config.vocab_size, hidden_size),
            "model.norm.weight": ones.clone(),
        },
    )
    index_file = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_file), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--tokenizer", type=Path, help="folder whose tokenizer files are copied")
    arguments = parser.parse_args()
    write_model(arguments.folder, arguments.layers)
    for file in arguments.tokenizer.glob("*token*") if arguments.tokenizer else ():
        shutil.copy(file, arguments.folder)


if __name__ == "__main__":
    main()
