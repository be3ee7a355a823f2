"""An adapter merged into its base: one plain model in bfloat16.

The adapter was trained beside 4-bit weights, so it is merged into those, dequantised, and not
into the weights they were made of: what comes out computes what was trained, up to the
rounding of bfloat16.
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

_INDEX: Final = "model.safetensors.index.json"


def write_merged(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerFast,
    profile: ModelProfile,
    folder: Path,
    shard_bytes: int,
) -> None:
    """Write weights, configuration, tokenizer with its template, and generation settings.

    Args:
        model: The profile's base in 4 bits with its adapter on.
        tokenizer: Its tokenizer.
        profile: Which model it is.
        folder: An empty folder.
        shard_bytes: Largest file of weights; about as much memory is taken while writing.
    """
    shard: dict[str, torch.Tensor] = {}
    names: list[list[str]] = []
    size = total = 0
    for name, weight in merged_weights(model):
        n_bytes = weight.numel() * weight.itemsize
        if shard and size + n_bytes > shard_bytes:
            names.append(_write_shard(folder, len(names), shard))
            shard, size = {}, 0
        shard[name] = weight
        size += n_bytes
        total += n_bytes
    names.append(_write_shard(folder, len(names), shard))
    _name_shards(folder, names, total)
    config = load_config(profile)
    config.dtype = torch.bfloat16
    rows = active_added_embeddings(model)
    if rows is not None:
        config.vocab_size = max(config.vocab_size, rows.first_id + rows.n_tokens)
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
    """Each weight under its plain name, bfloat16 on the CPU, one at a time."""
    inner: Any = model.get_base_model()
    tied = inner.config.tie_word_embeddings
    rows = active_added_embeddings(model)
    embedding = _frozen(inner.get_input_embeddings())
    head = _frozen(inner.get_output_embeddings())
    for module_name, module in inner.named_modules():
        if isinstance(module, LoraLayer | nn.ParameterDict) or "lora_" in module_name:
            continue
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if tied and module is head and parameter_name == "weight":
                continue
            weight = _plain(parameter)
            if rows is not None and parameter_name == "weight" and module in (embedding, head):
                own = rows.embedding if module is embedding else rows.head
                weight = with_added_rows(weight, own, rows.first_id)
            module_name = module_name.removesuffix(".original_module")  # noqa: PLW2901
            outer = module_name.removesuffix(".base_layer")
            if outer != module_name and parameter_name == "weight":
                layer: Any = inner.get_submodule(outer)
                for adapter in layer.active_adapters:
                    weight = weight + layer.get_delta_weight(adapter).float()
            yield f"{outer}.{parameter_name}", weight.to("cpu", torch.bfloat16).contiguous()


def _frozen(module: nn.Module) -> nn.Module:
    """The matrix that trained rows of added tokens stand beside, if they do."""
    return getattr(module, "original_module", module)


@torch.no_grad()
def _plain(parameter: torch.Tensor) -> torch.Tensor:
    if isinstance(parameter, Params4bit):
        return dequantize_4bit(parameter.data, parameter.quant_state).float()
    return parameter.detach().float()


def _write_shard(folder: Path, number: int, weights: dict[str, torch.Tensor]) -> list[str]:
    file = folder / f"shard-{number}.safetensors"
    save_file(weights, file, metadata={"format": "pt"})
    # Written for the owner alone; Ollama's service runs as somebody else.
    file.chmod(0o644)
    return list(weights)


def _name_shards(folder: Path, names: list[list[str]], total: int) -> None:
    """The names that transformers and llama.cpp expect, which say how many there are."""
    if len(names) == 1:
        (folder / "shard-0.safetensors").rename(folder / "model.safetensors")
        return
    where: dict[str, str] = {}
    for number, held in enumerate(names):
        file = f"model-{number + 1:05d}-of-{len(names):05d}.safetensors"
        (folder / f"shard-{number}.safetensors").rename(folder / file)
        where |= dict.fromkeys(held, file)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / _INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
