"""From an adapter to a folder that other programs load, checked before it appears."""

import gc
import json
import logging
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from the_block_llm.errors import ExportError, StorageError
from the_block_llm.models.adapter.adapters import load_with_adapter
from the_block_llm.models.adapter.manifest import AdapterFolder
from the_block_llm.models.base.quantized_loading import pick_device
from the_block_llm.models.base.sources import load_tokenizer, quiet_loading
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.export.equivalence_check import Agreement, compare, references
from the_block_llm.pipelines.export.merging import write_merged
from the_block_llm.pipelines.export.ollama import instructions, modelfile
from the_block_llm.pipelines.export.params import ExportParams

_log = logging.getLogger(__name__)
# Above this a CPU compares in bfloat16, slowly: float32 would take twice the file in memory.
_FLOAT32_BYTES: Final = 4 * 2**30


def export_adapter(
    adapter: AdapterFolder,
    profile: ModelProfile,
    probes: Sequence[Mapping[str, Any]],
    params: ExportParams,
) -> dict[str, Any]:
    """Merge, write, compare, and only then put in place.

    Args:
        adapter: What is exported.
        profile: Its profile.
        probes: Of the probe plan: ``prompt`` and ``context``.
        params: Where to, and the tolerance.

    Returns:
        The report: folder, agreement, tolerance.

    Raises:
        ExportError: Merged and adapter do not agree within the tolerance; nothing is left.
        StorageError: The folder cannot be written.
    """
    name = f"{profile.name}@{adapter.path.name}"
    target = params.folder / name
    unfinished = target.with_name(f".{name}.{uuid.uuid4().hex}.unfinished")
    tokenizer = load_tokenizer(profile, adapter.added_tokens)
    prompts = [_prompt(tokenizer, profile, probe) for probe in probes[: params.probes]]
    try:
        unfinished.mkdir(parents=True)
        _log.info("Merging %s", name, extra={"markup": False})
        model = load_with_adapter(profile, adapter.path)
        # Written before anything is asked: on some processors the first answer packs the 4-bit
        # weights in another order.
        write_merged(model, tokenizer, profile, unfinished, params.shard_mib * 2**20)
        given = references(model, tokenizer, prompts, params.answer_tokens)
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _log.info("Comparing merged and adapter on %d probes", len(given))
        found = compare(_load_merged(unfinished), given)
        report = _report(target, adapter, profile, found, params)
        _check(name, found, params)
        (unfinished / "AGREEMENT.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
        (unfinished / "Modelfile").write_text(modelfile(tokenizer, profile), encoding="utf-8")
        (unfinished / "README.md").write_text(instructions(name), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        unfinished.rename(target)
    except OSError as error:
        raise StorageError(
            f"The exported model cannot be written to {params.folder}: {error.strerror or error}. "
            "Free some space or set export.folder, then run again."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return report


def _prompt(
    tokenizer: PreTrainedTokenizerFast, profile: ModelProfile, probe: Mapping[str, Any]
) -> list[int]:
    text = "\n\n".join(part for part in (probe["context"].strip(), probe["prompt"]) if part)
    if profile.role == "advisor":
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
    ids: list[int] = tokenizer(text, add_special_tokens=profile.role == "completion")["input_ids"]
    return ids


def _load_merged(folder: Path) -> Any:
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    device = pick_device()
    if device.type == "cuda" and size * 1.2 > torch.cuda.mem_get_info(device)[0]:
        device = torch.device("cpu")
    on_cpu = device.type == "cpu" and size <= _FLOAT32_BYTES
    with quiet_loading():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32 if on_cpu else torch.bfloat16, use_safetensors=True
        )
    return model.to(device).eval()


def _check(name: str, found: Agreement, params: ExportParams) -> None:
    if found.nats_apart > params.max_nll_difference or found.agreement < params.min_token_agreement:
        raise ExportError(
            f"Merged and adapter of {name} differ: {found.nats_apart:.4f} nats a token apart, "
            f"{found.agreement:.1%} of {found.n_tokens} tokens the same; allowed are "
            f"{params.max_nll_difference} and {params.min_token_agreement:.1%}. "
            "Nothing was exported. Raise export.max_nll_difference or lower "
            "export.min_token_agreement to accept that."
        )


def _report(
    target: Path,
    adapter: AdapterFolder,
    profile: ModelProfile,
    found: Agreement,
    params: ExportParams,
) -> dict[str, Any]:
    return {
        "folder": str(target),
        "profile": profile.name,
        "adapter": adapter.path.name,
        "base_model": adapter.manifest.base_model,
        "base_revision": adapter.manifest.base_revision,
        "agreement": asdict(found),
        "tolerance": {
            "max_nll_difference": params.max_nll_difference,
            "min_token_agreement": params.min_token_agreement,
        },
    }
