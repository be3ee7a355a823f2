"""Builds the inputs of an advisor: tables of a small repository, two tiny models, an adapter."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from tests.builders.tiny_adapter import ADDED_TOKENS, with_added_tokens, with_noise_adapter
from tests.builders.tiny_llama import save_tiny_llama, tiny_llama, tiny_profile
from tests.builders.tiny_starcoder import save_tiny_starcoder

from the_block_llm import schemas
from the_block_llm.datasets.parquet_table import save_table
from the_block_llm.datasets.report_files import write_report
from the_block_llm.models.adapter.manifest import AdapterManifest, write_manifest

HEAD = "a1b2c3d4" + "0" * 32
SHAS = [f"{n:x}c0ffee{n:033x}" for n in range(1, 5)]
FILES = {
    "src/ledger.rs": "pub struct Ledger;\n\nfn apply_block() {\n    tally_votes();\n}\n",
    "src/consensus.rs": "fn tally_votes() -> bool {\n    true\n}\n",
    "docs/guide.md": "# Guide\n\nThe ledger applies a block once consensus has tallied votes.\n",
    "docs/odd name.md": "Nothing here.\n",
}
SUBJECTS = ["Start the ledger", "Tally votes twice", "Explain consensus", "Merge it"]


def write_tables(
    folder: Path,
    files: dict[str, str] | None = None,
    head: str = HEAD,
    pinned_at: str = "2026-01-09T00:00:00+00:00",
) -> None:
    """Write the tables of git_ingest under ``folder``, in its order: the description first."""
    repository = folder / "01_raw" / "repository.json"
    repository.parent.mkdir(parents=True, exist_ok=True)
    description = {"repositories": [{"name": "chain", "head": head}], "pinned_at": pinned_at}
    write_report(repository, description)
    times = [datetime(2026, 1, n, tzinfo=UTC) for n in range(1, 5)]
    commits = [
        {
            "repo": "chain", "sha": sha, "parents": [], "author_id": "a", "authored_at": time,
            "committed_at": time + timedelta(hours=1), "tz_offset_min": 0, "subject": subject,
            "body": "Because.", "kind": "other", "is_merge": subject.startswith("Merge"),
            "reverts": None, "is_bot": False, "informative": True, "files_changed": 1,
            "insertions": 1, "deletions": 0,
        }
        for sha, subject, time in zip(SHAS, SUBJECTS, times, strict=True)
    ]  # fmt: skip
    changes = [
        {
            "repo": "chain", "sha": sha, "path": "src/ledger.rs", "old_path": None, "status": "M",
            "similarity": None, "language": "Rust", "additions": 1, "deletions": 0,
            "patch": "@@ -1 +1 @@\n+x\n", "encoding": "utf-8", "kept": True, "drop_reason": None,
            "redactions": 0,
        }
        for sha in SHAS[:3]
    ]  # fmt: skip
    snapshot = [
        {
            "repo": "chain", "sha": commit, "path": path, "language": "Rust",
            "size_bytes": len(text), "text": text, "kept": True, "drop_reason": None,
            "redactions": 0,
        }
        for commit, tree in (("old", {"src/gone.rs": "fn gone() {}\n"}), (head, files or FILES))
        for path, text in tree.items()
    ]  # fmt: skip
    tables = folder / "02_intermediate"
    for name, schema, rows in (
        ("commits", schemas.COMMITS, commits),
        ("file_changes", schemas.FILE_CHANGES, changes),
        ("snapshot_files", schemas.SNAPSHOT_FILES, snapshot),
    ):
        save_table(tables / name, schema, [pa.Table.from_pylist(rows, schema)])
    counts = [{"repo": "chain", "sha": head, "pinned_at": pinned_at}]
    write_report(tables / "snapshot_counts.json", counts)


def write_adapter(
    folder: Path, version: str, seed: int = 1, profile: str = "tiny", has_added_tokens: bool = False
) -> Path:
    """Write a complete adapter of the tiny Llama with random weights; return its folder."""
    target = folder / "06_models" / profile / version
    model = with_noise_adapter(tiny_llama(), 0.5, seed)
    if has_added_tokens:
        with_added_tokens(model)
    model.save_pretrained(target, save_embedding_layers=False)
    manifest = AdapterManifest(
        profile=profile, base_model="tiny", base_revision="local folder", data_hashes={},
        parameters={"added_tokens": ADDED_TOKENS if has_added_tokens else {}}, git_commit=HEAD,
        library_versions={}, device="cpu", peak_memory_gib=0.0,
        metrics={}, created_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    write_manifest(target, manifest)
    return target


def advisor_parameters(folder: Path, **overrides: Any) -> dict[str, Any]:
    """Return parameters for the data in ``folder``; ``overrides`` replace values of ``advisor``."""
    advisor = tiny_profile(folder / "llama").model_dump(mode="json", exclude={"name"})
    completion = {
        **advisor, "role": "completion", "folder": str(folder / "starcoder"),
        "pad_token": "<fim_pad>", "stop_tokens": ["<|endoftext|>"],
    }  # fmt: skip
    budget = {"passages": 3, "passage_tokens": 300, "prompt_tokens": 1500, "new_tokens": 24}
    return {
        "repository": ".",
        "model": "tiny",
        "models": {"tiny": advisor, "tiny-coder": completion},
        "advisor": {
            "completion_model": "tiny-coder", "adapters": {}, "memory_cap_gib": 1.0,
            "passage_characters": 200, "cpu": budget, "cuda": budget, "repetition_penalty": 1.0,
            "perplexity_lines": 2,
            "tables_folder": str(folder / "02_intermediate"),
            "repository_file": str(folder / "01_raw/repository.json"),
            "adapters_folder": str(folder / "06_models"),
            "index_folder": str(folder / "04_feature/search_index"),
            "serve": {
                "max_body_kib": 64,
                "max_queued": 4,
                "queue_timeout_s": 20,
                "answer_timeout_s": 20,
                "shutdown_timeout_s": 5,
            },
            **overrides,
        },
    }  # fmt: skip


def build_advised_repository(folder: Path) -> Path:
    """Write tables, models and one adapter under ``folder``."""
    write_tables(folder)
    save_tiny_llama(folder / "llama")
    save_tiny_starcoder(folder / "starcoder")
    write_adapter(folder, "2026-01-01T00.00.00Z")
    return folder
