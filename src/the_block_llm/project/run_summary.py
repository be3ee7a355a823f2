"""What a run made, in a few lines, read from the reports it wrote."""

from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

from kedro.io import DataCatalog
from rich import get_console
from rich.table import Table
from rich.text import Text

_SHOWN_WARNINGS: Final = 12


def print_summary(catalog: DataCatalog, outputs: AbstractSet[str], seconds: float) -> None:
    """Print a table of the run's results.

    Args:
        catalog: Holds the reports.
        outputs: Datasets that this run wrote; only their reports are shown.
        seconds: How long the run took.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, describe in _SECTIONS.items():
        if name in outputs:
            for label, text in describe(catalog.load(name), _shown_place(catalog, name)):
                # As Text: what a repository says must not be read as markup.
                table.add_row(label, Text(text))
    table.add_row("time", f"{seconds / 60:.1f} min")
    if table.row_count > 1:
        get_console().print(table)


def _shown_place(catalog: DataCatalog, name: str) -> str:
    """Where a dataset lies: an address in a store, or a path, short inside the project."""
    where = str(catalog.config_resolver.config.get(name, {}).get("filepath", name))
    if "://" in where:
        return where
    here = Path.cwd()
    return Path(where).relative_to(here).as_posix() if Path(where).is_relative_to(here) else where


def _ingested(report: dict[str, Any], place: str) -> list[tuple[str, str]]:
    commits = sum(history["commits"] for history in report["history"])
    files = report["snapshots"]
    # The last snapshot of a repository is the tree at the ref.
    newest = list({snapshot["repo"]: snapshot for snapshot in files}.values())
    dropped: Counter[str] = Counter()
    for counts in (*report["history"], *newest):
        dropped.update({reason: n["rows"] for reason, n in counts["dropped"].items()})
    redacted = sum(
        n
        for counts in (*report["history"], *newest)
        for kind, n in counts["redactions"].items()
        if kind != "email"
    )
    left_out = ", ".join(f"{n:,} {reason}" for reason, n in dropped.most_common(5)) or "nothing"
    return [
        (
            "ingested",
            (
                f"{commits:,} commits with {sum(h['kept_rows'] for h in report['history']):,} "
                f"changes kept, {sum(s['kept_rows'] for s in newest):,} files"
            ),
        ),
        ("left out", f"{left_out}; {redacted:,} secrets masked"),
        *(("", warning) for warning in report["warnings"][:_SHOWN_WARNINGS]),
        *_further(len(report["warnings"]) - _SHOWN_WARNINGS, place),
    ]


def _further(n_warnings: int, place: str) -> list[tuple[str, str]]:
    # Hundreds of repositories have hundreds of warnings.
    if n_warnings <= 0:
        return []
    return [("", f"{n_warnings:,} more warnings in {place}")]


def _sequences(report: dict[str, Any], _place: str) -> list[tuple[str, str]]:
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
                "tokens to learn"
            ),
        )
    ]
    return lines + [("", warning) for warning in report["warnings"]]


def _training(metrics: dict[str, Any], _place: str) -> list[tuple[str, str]]:
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


def _evaluated(report: dict[str, Any], _place: str) -> list[tuple[str, str]]:
    # Importing the evaluation imports torch: seconds that other commands need not spend.
    from the_block_llm.pipelines.behavioral_eval.report.report import summary_lines  # noqa: PLC0415

    first, *rest = summary_lines(report)
    return [("verdict", first), *(("", line) for line in rest)]


def _page(page: str, place: str) -> list[tuple[str, str]]:
    del page
    return [
        ("report", place),
        ("next", 'make viz shows graph, tables and plots; kedro ask "…" asks the tuned model'),
    ]


def _exported(report: dict[str, Any], _place: str) -> list[tuple[str, str]]:
    found = report["agreement"]
    agreement = (
        f"{found['agreement']:.1%} of {found['n_tokens']:,} tokens as the adapter would write "
        f"them, {found['nats_apart']:.4f} nats a token apart"
    )
    return [("exported", report["folder"]), ("agreement", agreement)]


_SECTIONS: Final[dict[str, Callable[[Any, str], list[tuple[str, str]]]]] = {
    "ingest_report": _ingested,
    "sequence_report": _sequences,
    "training_metrics": _training,
    "behavioral_report": _evaluated,
    "behavioral_page": _page,
    "export_report": _exported,
}
