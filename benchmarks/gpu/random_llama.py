"""Make a folder with a Llama of the exact shape of Llama-3.1-8B and random weights.

    python benchmarks/gpu/random_llama.py FOLDER [--layers 32] [--tokenizer FOLDER]

Speed and memory do not depend on what the weights say, so no gated download is needed. The
tokenizer, if one is given, is copied; training wants it, measuring single layers does not.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig


def config(n_layers: int) -> LlamaConfig:
    """Of Llama-3.1-8B-Instruct, but for the number of layers."""
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


def write(folder: Path, n_layers: int) -> None:
    """Write config and weights, a file a layer."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = config(n_layers)
    shape.save_pretrained(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device=device).manual_seed(0)
    file_of: dict[str, str] = {}

    def normal(*size: int) -> torch.Tensor:
        values = torch.empty(size, device=device, dtype=torch.bfloat16)
        return values.normal_(0, 0.02, generator=generator).cpu()

    def save(file_name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, str(folder / file_name), metadata={"format": "pt"})
        file_of.update(dict.fromkeys(tensors, file_name))

    hidden, inner, keys = shape.hidden_size, shape.intermediate_size, 8 * shape.head_dim
    ones = torch.ones(hidden, dtype=torch.bfloat16)
    save("embedding.safetensors", {"model.embed_tokens.weight": normal(shape.vocab_size, hidden)})
    for index in range(n_layers):
        prefix = f"model.layers.{index}."
        save(
            f"layer-{index:02d}.safetensors",
            {
                f"{prefix}self_attn.q_proj.weight": normal(hidden, hidden),
                f"{prefix}self_attn.k_proj.weight": normal(keys, hidden),
                f"{prefix}self_attn.v_proj.weight": normal(keys, hidden),
                f"{prefix}self_attn.o_proj.weight": normal(hidden, hidden),
                f"{prefix}mlp.gate_proj.weight": normal(inner, hidden),
                f"{prefix}mlp.up_proj.weight": normal(inner, hidden),
                f"{prefix}mlp.down_proj.weight": normal(hidden, inner),
                f"{prefix}input_layernorm.weight": ones.clone(),
                f"{prefix}post_attention_layernorm.weight": ones.clone(),
            },
        )
    save(
        "head.safetensors",
        {"lm_head.weight": normal(shape.vocab_size, hidden), "model.norm.weight": ones.clone()},
    )
    index_file = {"metadata": {}, "weight_map": file_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_file), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--tokenizer", type=Path, help="folder whose tokenizer files are copied")
    arguments = parser.parse_args()
    write(arguments.folder, arguments.layers)
    for file in arguments.tokenizer.glob("*token*") if arguments.tokenizer else ():
        shutil.copy(file, arguments.folder)


if __name__ == "__main__":
    main()
