"""Writing down what a run has learned."""

import importlib.metadata
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerFast

from the_block_llm.datasets.parts import write_text_atomically
from the_block_llm.models.adapter_manifest import MANIFEST_NAME, AdapterManifest
from the_block_llm.models.base_models import base_revision, prepare_base_model
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.run_metrics import device_name

_LIBRARIES: Final = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers")


def save_adapter(
    job: TrainingJob,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerFast,
    metrics: dict[str, Any],
    device: torch.device,
) -> Path:
    """Write adapter, tokenizer and manifest; gives the complete folder."""
    folder = job.work_folder / job.profile.name / f".finished-{job.fingerprint()}"
    if folder.exists():
        shutil.rmtree(folder)
    # The embedding is frozen and stays with the base; "auto" would ask the Hub about it.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    tokenizer.save_pretrained(str(folder))
    location = prepare_base_model(job.profile)
    manifest = AdapterManifest(
        profile=job.profile.name,
        base_model=location,
        base_revision=base_revision(job.profile, location),
        data_hashes=job.data_hashes(),
        parameters=job.model_dump(mode="json"),
        git_commit=job.git_commit,
        library_versions={name: importlib.metadata.version(name) for name in _LIBRARIES},
        device=device_name(device),
        peak_memory_gib=metrics["peak_memory_gib"],
        metrics={k: v for k, v in metrics.items() if not k.endswith("_history")},
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    # Last: a folder without its manifest is not an adapter.
    write_text_atomically(folder / MANIFEST_NAME, manifest.model_dump_json(indent=2))
    return folder
