"""Pictures of what is shown to the model: how much of which kind, and how full the rows are."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.schemas import DOCUMENT_KINDS, SPLITS
from the_block_llm.viz import plot_style

_COLOURS: Final = (plot_style.BLUE, plot_style.ORANGE, plot_style.GREEN)
_COLOUR_OF: Final = dict(zip(DOCUMENT_KINDS, _COLOURS, strict=True))
# Lines of rows lie on one another; the dash tells them apart where the colour does not.
_DASHES: Final = ("-", "--", ":")
_MILLION: Final = 1_000_000


@plot_style.common_style
def plot_mix(report: Mapping[str, Any]) -> Figure:
    """Draw the tokens of each kind of document on each side of the cut-off.

    Args:
        report: As in ``sequence_report.json``.
    """
    figure, (axes,) = plot_style.new_figure(3.2)
    left = np.zeros(len(SPLITS))
    for kind in DOCUMENT_KINDS:
        tokens = [report.get(f"{split}_{kind}_tokens", 0) for split in SPLITS]
        axes.barh(SPLITS, np.array(tokens) / _MILLION, left=left / _MILLION, label=kind,
                  color=_COLOUR_OF[kind])  # fmt: skip
        left += tokens
    axes.invert_yaxis()
    axes.set_xlabel("tokens of documents (millions)")
    axes.grid(axis="y", visible=False)
    axes.legend()
    axes.set_title("What is learned and what is held back, before the mix")
    return figure


@plot_style.common_style
def plot_rows(rows: Mapping[str, ParquetTable], report: Mapping[str, Any]) -> Figure:
    """Draw the lengths of the rows and of the segments in them.

    Args:
        rows: By side of the cut-off.
        report: As in ``sequence_report.json``.
    """
    figure, (of_rows, of_segments) = plot_style.new_figure(3.6, columns=2)
    context = report["context_tokens"]
    for (split, table), colour, dash in zip(rows.items(), _COLOURS, _DASHES, strict=True):
        row_lengths, segment_lengths = _lengths(table)
        label = f"{split.replace('_', ' ')}: {report[f'{split}_fill_percent']} % full"
        for axes, lengths in ((of_rows, row_lengths), (of_segments, segment_lengths)):
            if len(lengths):
                share = np.full(len(lengths), 100 / len(lengths))
                axes.hist(lengths, bins=32, range=(0, context), weights=share,
                          histtype="step", color=colour, linestyle=dash, linewidth=1.8,
                          label=label)  # fmt: skip
    of_rows.set_xlabel("tokens in a row")
    of_rows.set_ylabel("share (%)")
    of_rows.set_yscale("log")  # nearly all rows are full: the few that are not should show
    of_segments.set_xlabel("tokens in a segment")
    of_rows.set_title("How full the rows are")
    of_segments.set_title("How long the segments")
    if of_rows.get_legend_handles_labels()[0]:
        of_rows.legend(fontsize="small", loc="upper left")
    return figure


def _lengths(table: ParquetTable) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rows: Sequence[Any] = [np.empty(0, np.int32)]
    segments: Sequence[Any] = [np.empty(0, np.int32)]
    for batch in table.batches(["n_tokens", "segment_lengths"]):
        rows = [*rows, batch["n_tokens"].to_numpy()]
        segments = [*segments, batch["segment_lengths"].flatten().to_numpy()]
    return np.concatenate(rows), np.concatenate(segments)
