"""The finished adapter: weights, tokenizer, reports and manifest."""

import importlib.metadata
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerFast

from the_block_llm.errors import AdapterError, StorageError
from the_block_llm.files.checksums import json_with_checksum, parse_json_with_checksum
from the_block_llm.files.durable_files import sync_tree, write_durably
from the_block_llm.models.adapter.manifest import AdapterManifest, open_adapter, write_manifest
from the_block_llm.models.base.sources import base_name, base_revision, prepare_base_model
from the_block_llm.os_errors import explain
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.runtime.memory_stats import device_name

_LIBRARIES: Final = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers")
_REPORTS: Final = "training_reports.json"
# Adapters are given to others: paths of this machine, such as the user's home, are left out.
_PATHS: Final[Any] = {
    "train_folder": True, "validation_folder": True, "work_folder": True,
    "tensorboard_folder": True,
    "profile": {"folder", "cache_folder"},
}  # fmt: skip


def finished_adapter_folder(job: TrainingJob) -> Path:
    """Return where the job's adapter is written before the catalog moves it to its version."""
    return job.work_folder / job.profile.name / f".finished-{job.fingerprint()}"


def read_finished_reports(job: TrainingJob) -> dict[str, Any] | None:
    """Return metrics and answers of an identical run whose adapter was written but not moved."""
    folder = finished_adapter_folder(job)
    try:
        open_adapter(folder)
        text = (folder / _REPORTS).read_text(encoding="utf-8")
        reports: dict[str, Any] = parse_json_with_checksum(text)
    except (AdapterError, OSError, ValueError):
        return None
    return reports


def save_adapter(
    job: TrainingJob,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerFast,
    reports: dict[str, dict[str, Any]],
    device: torch.device,
) -> None:
    """Write adapter, tokenizer, reports and manifest into :func:`finished_adapter_folder`.

    Args:
        job: The finished run.
        model: The trained model.
        tokenizer: Its tokenizer.
        reports: ``metrics`` as in ``training_metrics.json``, and ``answers``.
        device: The device that was trained on.

    Raises:
        StorageError: The folder cannot be written.
    """
    folder = finished_adapter_folder(job)
    location = prepare_base_model(job.profile)
    base_model = base_name(job.profile)
    metrics = reports["metrics"]
    manifest = AdapterManifest(
        profile=job.profile.name,
        base_model=base_model,
        base_revision=base_revision(job.profile, location),
        data_hashes=job.data_hashes(),
        parameters=job.model_dump(mode="json", exclude=_PATHS),
        git_commit=job.git_commit,
        library_versions={name: importlib.metadata.version(name) for name in _LIBRARIES},
        device=device_name(device),
        peak_memory_gib=metrics["peak_memory_gib"],
        metrics={k: v for k, v in metrics.items() if not k.endswith("_history")},
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    try:
        if folder.exists():
            shutil.rmtree(folder)
        # peft writes the first into the adapter's configuration, the others into its README.
        for config in model.peft_config.values():
            config.base_model_name_or_path = base_model
        base = model.get_base_model()
        base.name_or_path = base.config._name_or_path = base_model
        # The frozen embedding is part of the base; "auto" would query the Hub for its size.
        model.save_pretrained(str(folder), save_embedding_layers=False)
        tokenizer.save_pretrained(str(folder))
        write_durably(folder / _REPORTS, json_with_checksum(reports))
        sync_tree(folder)
        # Last: a folder without a manifest is not a complete adapter.
        write_manifest(folder, manifest)
    except (OSError, SafetensorError, StorageError) as error:
        raise StorageError(
            f"The finished adapter could not be written to {folder}: "
            f"{explain(error) if isinstance(error, OSError) else error} The last checkpoint is "
            "complete: run again, and the adapter is written without retraining."
        ) from error
