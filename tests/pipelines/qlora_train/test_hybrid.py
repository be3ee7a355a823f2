"""Two model profiles in one project."""

from pathlib import Path
from typing import Any

import pytest
from tests.builders.project import copy_project, run_project
from tests.builders.tiny_llama import save_tiny_llama

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.models.adapter.manifest import list_adapters
from the_block_llm.models.base.special_tokens import DOMAIN_TOKENS


def second_profile(project: Path) -> dict[str, Any]:
    """A completion model with shorter rows and other LoRA targets."""
    return {
        "role": "completion",
        "folder": str(project / "tiny"),
        "document_end": "<|endoftext|>",
        "pad_token": "<|pad|>",
        "stop_tokens": ["<|endoftext|>"],
        "context_tokens": 128,
        "overlap_tokens": 16,
        "lora": {"r": 2, "alpha": 4, "dropout": 0.0, "target_modules": "all-linear"},
        "training": {
            "learning_rate": 5e-3, "effective_batch_rows": 4, "target_tokens": 1000,
            "min_epochs": 1, "max_epochs": 1, "max_rows": 8, "max_validation_rows": 2,
        },
    }  # fmt: skip


@pytest.mark.slow
def test_each_profile_has_its_own_rows_and_adapters(tmp_path: Path, small_repository: Path) -> None:
    project = copy_project(tmp_path / "project")
    save_tiny_llama(project / "tiny")
    models = {
        "tiny": {"folder": str(project / "tiny")},
        "tiny-code": second_profile(project),
    }
    parameters = {
        "repository": str(small_repository),
        "models": models,
        # The byte tokenizer has no fill-in-the-middle tokens.
        "sequence_build": {"fim_share": 0, "domain_marks": True},
        "qlora_train": {"max_steps": 2, "probe_questions": []},
    }
    run_project(project, "git_ingest", **parameters)
    for model in ("tiny", "tiny-code", "tiny"):
        run_project(project, "sequence_build", model=model, **parameters)
        run_project(project, "qlora_train", model=model, **parameters)
    data = project / "data"
    longest = {
        model: max(
            r["n_tokens"] for r in ParquetTable(data / "05_model_input/train" / model).rows()
        )
        for model in ("tiny", "tiny-code")
    }
    assert 128 < longest["tiny"] <= 256
    assert longest["tiny-code"] <= 128
    adapters = {model: list_adapters(data / "06_models" / model) for model in longest}
    assert {model: len(found) for model, found in adapters.items()} == {"tiny": 2, "tiny-code": 1}
    assert adapters["tiny-code"][0].manifest.profile == "tiny-code"
    # The rows contain the added tokens, and the adapters their ids.
    rows = ParquetTable(data / "05_model_input/train/tiny").rows()
    assert any(260 <= token < 264 for row in rows for token in row["input_ids"])
    for found in adapters.values():
        assert found[0].added_tokens == {mark: 260 + i for i, mark in enumerate(DOMAIN_TOKENS)}
    first, again = adapters["tiny"]
    assert first.manifest.data_hashes == again.manifest.data_hashes, "rows are built reproducibly"
