"""What earlier evaluations found, adapter by adapter: is it getting better?

Each evaluation leaves a small file of its own; nothing is measured for the trend.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from the_block_llm.datasets.parquet_table import write_text_atomically
from the_block_llm.errors import StorageError
from the_block_llm.pipelines.behavioral_eval.runner.likelihood import HELD_OUT

_KEPT: Final = (
    "title", "unit", "higher_is_better", "base", "tuned", "difference", "low", "high",
    "n_items", "n_clusters", "outcome",
)  # fmt: skip


def material_hash(item_scores: Sequence[Mapping[str, Any]]) -> str:
    """Identifies the held-out text that was measured; only figures of the same compare."""
    pieces = sorted(
        (row["item_id"], row["weight"])
        for row in item_scores
        if row["task"] == HELD_OUT and row["arm"] == "base"
    )
    return hashlib.sha256(json.dumps(pieces).encode()).hexdigest()[:12]


def trend_entry(
    adapter: str, trained_at: str, material: str, report: Mapping[str, Any]
) -> dict[str, Any]:
    """What is remembered of one evaluation."""
    measures = {m["name"]: {name: m[name] for name in _KEPT} for m in report["measures"]}
    return {
        "adapter": adapter,
        "trained_at": trained_at,
        "material": material,
        "verdict": report["verdict"]["outcome"],
        "measures": measures,
    }


def remember(folder: Path, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Keep ``entry`` in the place of an earlier one of the same adapter.

    Args:
        folder: Of the profile's entries, one file an adapter.
        entry: As :func:`trend_entry` makes it.

    Returns:
        All entries, oldest training first.

    Raises:
        StorageError: The folder cannot be written, or a file in it cannot be read.
    """
    write_text_atomically(folder / f"{entry['adapter']}.json", json.dumps(entry, indent=1))
    try:
        entries = [json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))]
    except (OSError, ValueError) as error:
        raise StorageError(
            f"Earlier evaluations in {folder} cannot be read: {error}. Delete the file that is "
            "damaged; it only serves the trend."
        ) from error
    return sorted(entries, key=lambda kept: (kept["trained_at"], kept["adapter"]))
