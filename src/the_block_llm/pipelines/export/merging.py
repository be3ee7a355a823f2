"""Merging an adapter into its base model, as a plain model in bfloat16.

The adapter was trained on top of 4-bit weights, so it is merged into those weights, dequantized,
and not into the original 16-bit weights. The merged model computes what was trained, up to
bfloat16 rounding.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Params4bit
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerFast

from the_block_llm.models.adapter.added_embedding_layers import active_added_embeddings
from the_block_llm.models.adapter.added_embeddings import with_added_rows
from the_block_llm.models.base.sources import load_config
from the_block_llm.models.inference.generation import stop_token_ids
from the_block_llm.models.profiles import ModelProfile

_INDEX_FILE: Final = "model.safetensors.index.json"


def write_merged(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerFast,
    profile: ModelProfile,
    folder: Path,
    shard_bytes: int,
) -> None:
    """Write merged weights, configuration, tokenizer and generation configuration.

    Args:
        model: The profile's 4-bit base model with the adapter.
        tokenizer: Its tokenizer.
        profile: Its profile.
        folder: An empty folder.
        shard_bytes: Maximum size of a weights file; writing needs about as much memory.
    """
    shard: dict[str, torch.Tensor] = {}
    shard_names: list[list[str]] = []
    size_bytes = total_bytes = 0
    for name, weight in merged_weights(model):
        weight_bytes = weight.numel() * weight.itemsize
        if shard and size_bytes + weight_bytes > shard_bytes:
            shard_names.append(_write_shard(folder, len(shard_names), shard))
            shard, size_bytes = {}, 0
        shard[name] = weight
        size_bytes += weight_bytes
        total_bytes += weight_bytes
    shard_names.append(_write_shard(folder, len(shard_names), shard))
    _rename_shards(folder, shard_names, total_bytes)
    config = load_config(profile)
    config.dtype = torch.bfloat16
    added = active_added_embeddings(model)
    if added is not None:
        config.vocab_size = max(config.vocab_size, added.first_id + added.n_tokens)
    config.architectures = [type(model.get_base_model()).__name__]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=sorted(
            {
                *stop_token_ids(model, tokenizer),
                *(int(tokenizer.convert_tokens_to_ids(token)) for token in profile.stop_tokens),
            }
        ),
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)


def merged_weights(model: PeftModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each merged weight with its name in the base model, bfloat16 on the CPU."""
    inner: Any = model.get_base_model()
    tied = inner.config.tie_word_embeddings
    added = active_added_embeddings(model)
    embedding = _base_module(inner.get_input_embeddings())
    head = _base_module(inner.get_output_embeddings())
    for module_name, module in inner.named_modules():
        if isinstance(module, LoraLayer | nn.ParameterDict) or "lora_" in module_name:
            continue
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if tied and module is head and parameter_name == "weight":
                continue
            weight = _dequantize(parameter)
            if added is not None and parameter_name == "weight" and module in (embedding, head):
                added_rows = added.embedding if module is embedding else added.head
                weight = with_added_rows(weight, added_rows, added.first_id)
            module_name = module_name.removesuffix(".original_module")  # noqa: PLW2901
            base_name = module_name.removesuffix(".base_layer")
            if base_name != module_name and parameter_name == "weight":
                layer: Any = inner.get_submodule(base_name)
                for adapter in layer.active_adapters:
                    weight = weight + layer.get_delta_weight(adapter).float()
            yield f"{base_name}.{parameter_name}", weight.to("cpu", torch.bfloat16).contiguous()


def _base_module(module: nn.Module) -> nn.Module:
    """Return the frozen module inside the wrapper for added tokens, if there is one."""
    return getattr(module, "original_module", module)


@torch.no_grad()
def _dequantize(parameter: torch.Tensor) -> torch.Tensor:
    if isinstance(parameter, Params4bit):
        return dequantize_4bit(parameter.data, parameter.quant_state).float()
    return parameter.detach().float()


def _write_shard(folder: Path, number: int, weights: dict[str, torch.Tensor]) -> list[str]:
    file = folder / f"shard-{number}.safetensors"
    save_file(weights, file, metadata={"format": "pt"})
    # safetensors makes the file readable by its owner only; Ollama runs as another user.
    file.chmod(0o644)
    return list(weights)


def _rename_shards(folder: Path, shard_names: list[list[str]], total_bytes: int) -> None:
    """Rename the shards as transformers and llama.cpp expect, and write the index.

    Args:
        folder: Folder of the shards.
        shard_names: Names of the weights in each shard.
        total_bytes: Size of all weights.
    """
    n_shards = len(shard_names)
    if n_shards == 1:
        (folder / "shard-0.safetensors").rename(folder / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, weight_names in enumerate(shard_names):
        file = f"model-{number + 1:05d}-of-{n_shards:05d}.safetensors"
        (folder / f"shard-{number}.safetensors").rename(folder / file)
        weight_map |= dict.fromkeys(weight_names, file)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (folder / _INDEX_FILE).write_text(json.dumps(index, indent=2), encoding="utf-8")
