"""Plots of tokens by document kind and split, and of row and segment lengths."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.schemas import DOCUMENT_KINDS, SPLITS
from the_block_llm.viz import plot_style

_COLORS: Final = (plot_style.BLUE, plot_style.ORANGE, plot_style.GREEN)
_COLOR_BY_KIND: Final = dict(zip(DOCUMENT_KINDS, _COLORS, strict=True))
# Lines may coincide; dashes distinguish them without relying on color.
_DASHES: Final = ("-", "--", ":")
_MILLION: Final = 1_000_000


@plot_style.common_style
def plot_mix(report: Mapping[str, Any]) -> Figure:
    """Plot the tokens of each kind of document in each split.

    Args:
        report: Contents of ``sequence_report.json``.
    """
    figure, (axes,) = plot_style.new_figure(3.2)
    left = np.zeros(len(SPLITS))
    for kind in DOCUMENT_KINDS:
        tokens = [report.get(f"{split}_{kind}_tokens", 0) for split in SPLITS]
        axes.barh(SPLITS, np.array(tokens) / _MILLION, left=left / _MILLION, label=kind,
                  color=_COLOR_BY_KIND[kind])  # fmt: skip
        left += tokens
    axes.invert_yaxis()
    axes.set_xlabel("document tokens (millions)")
    axes.grid(axis="y", visible=False)
    axes.legend()
    axes.set_title("Tokens by split and kind, before the mix")
    return figure


@plot_style.common_style
def plot_rows(rows: Mapping[str, ParquetTable], report: Mapping[str, Any]) -> Figure:
    """Plot the distributions of row and segment lengths.

    Args:
        rows: Tables of packed rows by split.
        report: Contents of ``sequence_report.json``.
    """
    figure, (row_axes, segment_axes) = plot_style.new_figure(3.6, columns=2)
    context = report["context_tokens"]
    for (split, table), color, dash in zip(rows.items(), _COLORS, _DASHES, strict=True):
        row_lengths, segment_lengths = _lengths(table)
        label = f"{split.replace('_', ' ')}: {report[f'{split}_fill_percent']} % full"
        for axes, lengths in ((row_axes, row_lengths), (segment_axes, segment_lengths)):
            if len(lengths):
                percent = np.full(len(lengths), 100 / len(lengths))
                axes.hist(lengths, bins=32, range=(0, context), weights=percent,
                          histtype="step", color=color, linestyle=dash, linewidth=1.8,
                          label=label)  # fmt: skip
    row_axes.set_xlabel("tokens per row")
    row_axes.set_ylabel("fraction (%)")
    row_axes.set_yscale("log")  # nearly all rows are full; show the few that are not
    segment_axes.set_xlabel("tokens per segment")
    row_axes.set_title("Row lengths")
    segment_axes.set_title("Segment lengths")
    if row_axes.get_legend_handles_labels()[0]:
        row_axes.legend(fontsize="small", loc="upper left")
    return figure


def _lengths(table: ParquetTable) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rows: Sequence[Any] = [np.empty(0, np.int32)]
    segments: Sequence[Any] = [np.empty(0, np.int32)]
    for batch in table.batches(["n_tokens", "segment_lengths"]):
        rows = [*rows, batch["n_tokens"].to_numpy()]
        segments = [*segments, batch["segment_lengths"].flatten().to_numpy()]
    return np.concatenate(rows), np.concatenate(segments)
