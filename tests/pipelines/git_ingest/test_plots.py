"""The plots show the numbers of the report."""

import warnings
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.axes import Axes
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.pipelines.git_ingest import nodes
from the_block_llm.pipelines.git_ingest.plots import plot_history


def _bars(axes: Axes) -> dict[str, list[float]]:
    """Return for each label of the vertical axis the widths of its bars, one per color."""
    labels = [label.get_text() for label in axes.get_yticklabels()]
    containers = [[bar.get_width() for bar in container] for container in axes.containers]
    return dict(zip(labels, map(list, zip(*containers, strict=True)), strict=True))


def test_every_plot_shows_the_counts(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    token = "ghp_" + "a7Q" * 12
    repository.commit("Count votes", {"a$b$.rs": "x" * 3000 + "\n"}, at=1_704_110_400)
    repository.commit("wip", {"Cargo.lock": "y" * 4_000_000}, at=1_706_788_800)
    repository.commit("Fix the count", {"b.py": f"key = '{token}'\n"}, at=1_706_788_800)
    result = ingest(repository.path, tmp_path / "out", cutoff=None)

    history, kept, dropped = nodes.plot_ingest(result.repository, result.commits, result.report)

    _, kind_axes = history.axes
    labels = [text.get_text() for text in history.legends[0].get_texts()]
    assert labels == ["informative: 2", "uninformative: 1", "merge: 0", "cut-off"]
    assert _bars(kind_axes) == {"fix": [1], "other": [2]}
    language_axes, file_axes = kept.axes
    assert _bars(language_axes)["Rust"] == [0.003001, pytest.approx(0.003, abs=1e-4)]
    assert _bars(file_axes) == {r"a\$b\$.rs": [3.001], "b.py": [0.049]}
    rows_axes, bytes_axes, masks_axes = dropped.axes
    assert _bars(rows_axes) == {"lock_file": [1, 1]}
    assert [group[0].get_width() for group in bytes_axes.containers] == [
        4.0, pytest.approx(4.0, abs=0.1),
    ]  # fmt: skip
    assert _bars(masks_axes) == {"github-token": [2]}
    for figure in (history, kept, dropped):
        for axes in figure.axes:
            assert axes.get_xlabel()
        figure.savefig(BytesIO())  # lays out the labels; `$` must not start a formula


def test_empty_plots_and_unusual_names_are_drawn(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "$ _ project")
    repository.commit("One", {"a\n\x01$" + "long" * 30 + ".md": "Text\n"})
    result = ingest(repository.path, tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = nodes.plot_ingest(result.repository, result.commits, result.report)
        for figure in figures:
            figure.savefig(BytesIO())
    assert all(axes.get_xlabel() for figure in figures for axes in figure.axes)


@pytest.mark.parametrize("days", [0.01, 0.1, 0.5, 4.5, 15, 40, 400, 4000])
def test_date_labels_do_not_overlap_for_any_length_of_history(days: float) -> None:
    begin = datetime(2026, 11, 24, tzinfo=UTC)
    rows = [
        {
            "committed_at": begin + timedelta(days=days * part / 20),
            "informative": True, "is_merge": False, "kind": "fix",
        }
        for part in range(21)
    ]  # fmt: skip
    commits = SimpleNamespace(rows=lambda columns: rows, num_rows=len(rows))
    figure = plot_history(commits, {"cutoff": {"time": begin.isoformat()}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # warns if no interval fits the length
        figure.draw_without_rendering()
    boxes = [
        label.get_window_extent()
        for label in figure.axes[0].get_xticklabels()
        if label.get_text() and label.get_visible()
    ]
    assert len(boxes) > 1
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
