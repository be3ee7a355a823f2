"""Trend over the evaluated adapters.

Each evaluation stores its results in one small file per adapter.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from the_block_llm.datasets.parquet_table import write_text_atomically
from the_block_llm.errors import StorageError, stored_data
from the_block_llm.files.checksums import json_with_checksum, parse_json_with_checksum
from the_block_llm.os_errors import explain
from the_block_llm.pipelines.behavioral_eval.runner.likelihood import HELD_OUT

_STORED_FIELDS: Final = (
    "title", "unit", "higher_is_better", "base", "tuned", "difference", "low", "high",
    "n_items", "n_clusters", "outcome",
)  # fmt: skip


def held_out_hash(item_scores: Sequence[Mapping[str, Any]]) -> str:
    """Return a hash of the measured held-out text; only results on the same text are comparable."""
    segments = sorted(
        (row["item_id"], row["weight"])
        for row in item_scores
        if row["task"] == HELD_OUT and row["arm"] == "base"
    )
    return hashlib.sha256(json.dumps(segments).encode()).hexdigest()[:12]


def trend_entry(
    adapter: str, trained_at: str, text_hash: str, report: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the trend entry of one evaluation."""
    measures = {m["name"]: {name: m[name] for name in _STORED_FIELDS} for m in report["measures"]}
    return {
        "adapter": adapter,
        "trained_at": trained_at,
        "material": text_hash,
        "verdict": report["verdict"]["outcome"],
        "measures": measures,
    }


def save_trend_entry(folder: Path, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Store ``entry``, replacing an earlier one of the same adapter.

    Args:
        folder: Folder of the profile, with one file per adapter.
        entry: Result of :func:`trend_entry`.

    Returns:
        All entries of the profile, oldest training first.

    Raises:
        StorageError: The folder cannot be written or read.
        StaleDataError: A file in it is damaged, or of another version.
    """
    write_text_atomically(folder / f"{entry['adapter']}.json", json_with_checksum(entry, indent=1))
    entries = [_read_entry(file) for file in sorted(folder.glob("*.json"))]
    return sorted(entries, key=lambda stored: (stored["trained_at"], stored["adapter"]))


def _read_entry(file: Path) -> dict[str, Any]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise StorageError(
            f"Cannot read the earlier evaluation {file}: {explain(error)}"
        ) from error
    with stored_data(f"The earlier evaluation {file}", "Delete it; only the trend needs it."):
        stored = parse_json_with_checksum(content)
        entry = {name: stored[name] for name in ("adapter", "trained_at", "material", "verdict")}
        return {
            **{name: str(value) for name, value in entry.items()},
            "measures": {
                name: {field: measure[field] for field in _STORED_FIELDS}
                for name, measure in stored["measures"].items()
            },
        }
