"""The summary that is printed at the end of a run."""

from pathlib import Path
from typing import Any

import pytest
from kedro.io import DataCatalog

from the_block_llm.project.run_summary import print_summary

REPORT = {"history": [], "snapshots": [], "warnings": [f"warning {n}" for n in range(20)]}


def print_report(filepath: str, credentials: dict[str, Any] | None = None) -> None:
    entry: dict[str, Any] = {
        "type": "the_block_llm.datasets.report.ReportDataset",
        "filepath": filepath,
    }
    if credentials:
        entry["credentials"] = "store"
    catalog = DataCatalog.from_config({"ingest_report": entry}, {"store": credentials or {}})
    catalog.save("ingest_report", REPORT)
    print_summary(catalog, {"ingest_report"}, 60)


def test_report_in_a_store_is_shown_by_its_url(
    credentials: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    print_report("s3://tables/company/ingest_report.json", credentials)
    out = " ".join(capsys.readouterr().out.split())
    assert "8 more warnings in s3://tables/company/ingest_report.json" in out


def test_local_report_is_shown_relative_to_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # Kedro makes all paths in the catalog absolute.
    print_report(str(tmp_path / "data/08_reporting/ingest_report.json"))
    out = " ".join(capsys.readouterr().out.split())
    assert "8 more warnings in data/08_reporting/ingest_report.json" in out
