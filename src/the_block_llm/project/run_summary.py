"""Summary of a run, printed from the reports that it wrote."""

from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

from kedro.io import DataCatalog
from rich import get_console
from rich.table import Table
from rich.text import Text

_MAX_WARNINGS: Final = 12


def print_summary(catalog: DataCatalog, outputs: AbstractSet[str], seconds: float) -> None:
    """Print a table of the run's results.

    Args:
        catalog: Catalog with the reports.
        outputs: Datasets that this run wrote; only their reports are shown.
        seconds: Duration of the run.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, describe in _SECTIONS.items():
        if name in outputs:
            for label, text in describe(catalog.load(name), _display_path(catalog, name)):
                # As Text: content of the repository must not be parsed as markup.
                table.add_row(label, Text(text))
    table.add_row("time", f"{seconds / 60:.1f} min")
    if table.row_count > 1:
        get_console().print(table)


def _display_path(catalog: DataCatalog, name: str) -> str:
    """Return the URL or path of a dataset; paths inside the project are relative to it."""
    filepath = str(catalog.config_resolver.config.get(name, {}).get("filepath", name))
    if "://" in filepath:
        return filepath
    path, project = Path(filepath), Path.cwd()
    return path.relative_to(project).as_posix() if path.is_relative_to(project) else filepath


def _ingest_rows(report: dict[str, Any], path: str) -> list[tuple[str, str]]:
    commits = sum(history["commits"] for history in report["history"])
    # The last snapshot of a repository is the tree at the ref.
    newest = list({snapshot["repo"]: snapshot for snapshot in report["snapshots"]}.values())
    dropped: Counter[str] = Counter()
    for counts in (*report["history"], *newest):
        dropped.update({reason: n["rows"] for reason, n in counts["dropped"].items()})
    redacted = sum(
        n
        for counts in (*report["history"], *newest)
        for kind, n in counts["redactions"].items()
        if kind != "email"
    )
    excluded = ", ".join(f"{n:,} {reason}" for reason, n in dropped.most_common(5)) or "nothing"
    return [
        (
            "ingested",
            (
                f"{commits:,} commits with {sum(h['kept_rows'] for h in report['history']):,} "
                f"changes kept, {sum(s['kept_rows'] for s in newest):,} files"
            ),
        ),
        ("left out", f"{excluded}; {redacted:,} secrets masked"),
        *(("", warning) for warning in report["warnings"][:_MAX_WARNINGS]),
        *_more_warnings(len(report["warnings"]) - _MAX_WARNINGS, path),
    ]


def _more_warnings(n_warnings: int, path: str) -> list[tuple[str, str]]:
    # A corpus of hundreds of repositories has hundreds of warnings.
    if n_warnings <= 0:
        return []
    return [("", f"{n_warnings:,} more warnings in {path}")]


def _sequence_rows(report: dict[str, Any], _path: str) -> list[tuple[str, str]]:
    rows = ", ".join(
        f"{report[f'{split}_rows']:,} {split.replace('_', '-')}"
        for split in ("train", "validation", "held_out")
    )
    lines = [
        (
            "sequences",
            (
                f"{rows} rows of {report['context_tokens']:,} tokens; the training rows are "
                f"{report['train_fill_percent']:.1f} % full, {report['train_trained_tokens']:,} "
                "trained tokens"
            ),
        )
    ]
    return lines + [("", warning) for warning in report["warnings"]]


def _training_rows(metrics: dict[str, Any], _path: str) -> list[tuple[str, str]]:
    plan = metrics["epoch_plan"]
    epochs = "1 epoch" if plan["epochs"] == 1 else f"{plan['epochs']} epochs"
    return [
        (
            "training",
            (
                f"{metrics['profile']} on {metrics['device']}: {plan['rows']:,} rows, "
                f"{epochs}, {metrics['steps_done']:,} steps in "
                f"{metrics['seconds'] / 60:.1f} min, {metrics['trained_tokens_per_second']:,.0f} "
                f"tokens/s, peak {metrics['peak_memory_gib']:.2f} GiB"
            ),
        ),
        (
            "validation loss",
            (
                f"{metrics['validation_loss_before']:.3f} before, "
                f"{metrics['validation_loss_after']:.3f} after"
            ),
        ),
    ]


def _evaluation_rows(report: dict[str, Any], _path: str) -> list[tuple[str, str]]:
    # Imported here, since the evaluation imports torch, which takes seconds.
    from the_block_llm.pipelines.behavioral_eval.report.report import summary_lines  # noqa: PLC0415

    first, *rest = summary_lines(report)
    return [("verdict", first), *(("", line) for line in rest)]


def _page_rows(page: str, path: str) -> list[tuple[str, str]]:
    del page
    return [
        ("report", path),
        ("next", 'make viz shows graph, tables and plots; kedro ask "…" asks the tuned model'),
    ]


def _export_rows(report: dict[str, Any], _path: str) -> list[tuple[str, str]]:
    check = report["agreement"]
    agreement = (
        f"{check['agreement']:.1%} of {check['n_tokens']:,} tokens equal to the adapter's, mean "
        f"difference {check['nats_apart']:.4f} nats per token"
    )
    return [("exported", report["folder"]), ("agreement", agreement)]


_SECTIONS: Final[dict[str, Callable[[Any, str], list[tuple[str, str]]]]] = {
    "ingest_report": _ingest_rows,
    "sequence_report": _sequence_rows,
    "training_metrics": _training_rows,
    "behavioral_report": _evaluation_rows,
    "behavioral_page": _page_rows,
    "export_report": _export_rows,
}
