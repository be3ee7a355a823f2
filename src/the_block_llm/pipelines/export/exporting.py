"""Export of an adapter as a merged model, verified before it is published."""

import gc
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from the_block_llm.errors import ExportError, StorageError
from the_block_llm.files.durable_files import replacing_folder
from the_block_llm.models.adapter.adapters import load_model_with_adapter
from the_block_llm.models.adapter.manifest import AdapterFolder
from the_block_llm.models.base.quantized_loading import pick_device
from the_block_llm.models.base.sources import load_tokenizer, quiet_loading
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.export.equivalence_check import (
    Equivalence,
    generate_references,
    measure_equivalence,
)
from the_block_llm.pipelines.export.merging import write_merged
from the_block_llm.pipelines.export.ollama import model_card, modelfile
from the_block_llm.pipelines.export.params import ExportParams

_log = logging.getLogger(__name__)
# A larger file is checked in bfloat16 on a CPU, slowly: float32 takes twice its size in memory.
_MAX_FLOAT32_MODEL_BYTES: Final = 4 * 2**30


def export_adapter(
    adapter: AdapterFolder,
    profile: ModelProfile,
    probes: Sequence[Mapping[str, Any]],
    params: ExportParams,
) -> dict[str, Any]:
    """Merge the adapter into a temporary folder, verify the result, and rename the folder.

    Args:
        adapter: The adapter to export.
        profile: Its model profile.
        probes: Probes of the probe plan, each with ``prompt`` and ``context``.
        params: Target folder and tolerances.

    Returns:
        The report: folder, measured agreement, tolerances.

    Raises:
        ExportError: The merged model differs from the adapter by more than the tolerances; no
            files remain.
        StorageError: The folder cannot be written.
    """
    name = f"{profile.name}@{adapter.path.name}"
    target = params.folder / name
    tokenizer = load_tokenizer(profile, adapter.added_tokens)
    prompts = [_prompt(tokenizer, profile, probe) for probe in probes[: params.probes]]
    try:
        with replacing_folder(target) as temporary:
            _log.info("Merging %s", name, extra={"markup": False})
            model = load_model_with_adapter(profile, adapter.path)
            # Before the first forward pass, which repacks the 4-bit weights on some processors.
            write_merged(model, tokenizer, profile, temporary, params.shard_mib * 2**20)
            references = generate_references(model, tokenizer, prompts, params.answer_tokens)
            del model
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            _log.info("Comparing the merged model with the adapter on %d probes", len(references))
            equivalence = measure_equivalence(_load_merged(temporary), references)
            report = _report(target, adapter, profile, equivalence, params)
            _check_equivalence(name, equivalence, params)
            # The folder is given to others: without the path of this machine.
            agreement = {key: value for key, value in report.items() if key != "folder"}
            for file, text in (
                ("AGREEMENT.json", json.dumps(agreement, indent=2)),
                ("Modelfile", modelfile(tokenizer, profile)),
                ("README.md", model_card(name)),
            ):
                (temporary / file).write_text(text, encoding="utf-8")
    except (StorageError, SafetensorError) as error:
        raise StorageError(
            f"The exported model cannot be written to {params.folder}: {error} Free some space or "
            "set export.folder, then run again."
        ) from error
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
    size_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    device = pick_device()
    if device.type == "cuda" and size_bytes * 1.2 > torch.cuda.mem_get_info(device)[0]:
        device = torch.device("cpu")
    in_float32 = device.type == "cpu" and size_bytes <= _MAX_FLOAT32_MODEL_BYTES
    with quiet_loading():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32 if in_float32 else torch.bfloat16, use_safetensors=True
        )
    return model.to(device).eval()


def _check_equivalence(name: str, equivalence: Equivalence, params: ExportParams) -> None:
    if (
        equivalence.nats_apart > params.max_nll_difference
        or equivalence.agreement < params.min_token_agreement
    ):
        raise ExportError(
            f"The merged model differs from the adapter {name}: {equivalence.nats_apart:.4f} nats "
            f"per token (limit {params.max_nll_difference}), {equivalence.agreement:.1%} of "
            f"{equivalence.n_tokens} tokens equal (limit {params.min_token_agreement:.1%}). "
            "Nothing was exported. Raise export.max_nll_difference or lower "
            "export.min_token_agreement to accept this."
        )


def _report(
    target: Path,
    adapter: AdapterFolder,
    profile: ModelProfile,
    equivalence: Equivalence,
    params: ExportParams,
) -> dict[str, Any]:
    return {
        "folder": str(target),
        "profile": profile.name,
        "adapter": adapter.path.name,
        "base_model": adapter.manifest.base_model,
        "base_revision": adapter.manifest.base_revision,
        "agreement": asdict(equivalence),
        "tolerance": {
            "max_nll_difference": params.max_nll_difference,
            "min_token_agreement": params.min_token_agreement,
        },
    }
