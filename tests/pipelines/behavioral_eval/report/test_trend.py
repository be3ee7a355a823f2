import json

import pytest

from the_block_llm.errors import StaleDataError
from the_block_llm.pipelines.behavioral_eval.report.trend import (
    held_out_hash,
    save_trend_entry,
    trend_entry,
)

MEASURE = {
    "name": "held_out", "title": "Held-out text", "unit": "bits per byte",
    "higher_is_better": False, "weight": "primary", "base": 1.2, "tuned": 1.0,
    "difference": -0.2, "low": -0.3, "high": -0.1, "p_value": 0.001, "p_corrected": 0.002,
    "detectable": 0.05, "n_items": 40, "n_clusters": 20, "outcome": "better",
}  # fmt: skip
REPORT = {"verdict": {"outcome": "better"}, "measures": [MEASURE]}


def entry(adapter, trained_at, material="m"):
    return trend_entry(adapter, trained_at, material, REPORT)


def test_entries_are_replaced_by_adapter_and_sorted_by_training_time(tmp_path):
    save_trend_entry(tmp_path, entry("b", "2026-02-01T00:00:00+00:00"))
    save_trend_entry(tmp_path, entry("a", "2026-03-01T00:00:00+00:00"))
    entries = save_trend_entry(tmp_path, entry("b", "2026-02-01T00:00:00+00:00", "other"))
    assert [(e["adapter"], e["material"]) for e in entries] == [("b", "other"), ("a", "m")]
    assert entries[0]["measures"]["held_out"]["low"] == -0.3
    assert not list(tmp_path.glob(".*")), "no temporary file is left"


def test_a_damaged_file_is_an_error(tmp_path):
    (tmp_path / "old.json").write_text("{")
    with pytest.raises(StaleDataError, match=r"old\.json .*only the trend needs it"):
        save_trend_entry(tmp_path, entry("a", "2026-03-01T00:00:00+00:00"))


def test_the_held_out_hash_covers_segments_but_not_their_bits():
    def rows(bits, item="i"):
        return [
            {"task": "held_out", "arm": arm, "item_id": item, "weight": 10.0, "value": bits}
            for arm in ("base", "tuned")
        ]

    assert held_out_hash(rows(1.0)) == held_out_hash(rows(2.0))
    assert held_out_hash(rows(1.0)) != held_out_hash(rows(1.0, "other"))
    assert json.dumps(entry("a", "t"))
