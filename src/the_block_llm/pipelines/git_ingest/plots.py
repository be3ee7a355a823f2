"""Plots of the report: commits over time, kept text and dropped text."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.schemas import COMMIT_KINDS
from the_block_llm.viz import plot_style

_BINS: Final = 40
_KILO, _MEGA = 1_000, 1_000_000
_MAX_BARS: Final = 12
_MAX_LABEL_CHARACTERS: Final = 36


@plot_style.common_style
def plot_history(commits: ParquetTable, repository: Mapping[str, Any]) -> Figure:
    """Plot commits over time by informativeness of the subject, the cut-off, and commit kinds.

    Args:
        commits: The table ``commits``; four of its columns are read.
        repository: As in ``repository.json``.
    """
    times: dict[str, list[float]] = {"informative": [], "uninformative": [], "merge": []}
    kinds = Counter[str]()
    for row in commits.rows(["committed_at", "informative", "is_merge", "kind"]):
        kinds[row["kind"]] += 1
        group = "informative" if row["informative"] else "uninformative"
        times["merge" if row["is_merge"] else group].append(date2num(row["committed_at"]))
    figure, (axes, kind_axes) = plot_style.new_figure(3.6, columns=2)
    axes.hist(
        list(times.values()),
        bins=_BINS,
        stacked=True,
        color=[plot_style.BLUE, plot_style.ORANGE, plot_style.SKY],
        label=[f"{label}: {len(values):,}" for label, values in times.items()],
    )
    cutoff = datetime.fromisoformat(repository["cutoff"]["time"])
    axes.axvline(date2num(cutoff), color=plot_style.GREY, linestyle="--", label="cut-off")
    # Half a figure fits six labels; more would overlap.
    locator = AutoDateLocator(minticks=2, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_ylabel("commits")
    axes.set_xlabel("time of the commit (UTC)")
    axes.set_title(f"{commits.num_rows:,} commits by subject")
    present = [kind for kind in COMMIT_KINDS if kinds[kind]]
    _bars(kind_axes, present, [(kinds, plot_style.BLUE, "")])
    kind_axes.set_xlabel("commits by kind")
    figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    return figure


@plot_style.common_style
def plot_kept(report: Mapping[str, Any]) -> Figure:
    """Plot kept bytes by language, and the largest kept files.

    Args:
        report: As in ``ingest_report.json``.
    """
    files = _head_snapshots(report)
    figure, (language_axes, file_axes) = plot_style.new_figure(3.6, columns=2)
    in_files = _scaled(_sum(c["kept_bytes_by_language"] for c in files), _MEGA)
    in_patches = _scaled(_sum(c["kept_bytes_by_language"] for c in report["history"]), _MEGA)
    languages = [name for name, _ in (in_files + in_patches).most_common(_MAX_BARS)]
    files_and_patches = [
        (in_files, plot_style.BLUE, "files at the ref"),
        (in_patches, plot_style.ORANGE, "patches"),
    ]
    _bars(language_axes, languages, files_and_patches)
    language_axes.set_xlabel("kept (MB)")
    language_axes.legend(fontsize="small", loc="lower right")
    largest = [entry for counts in files for entry in counts["largest_kept"]]
    largest.sort(key=lambda entry: -entry["bytes"])
    sizes = {entry["path"]: entry["bytes"] / _KILO for entry in largest[:_MAX_BARS]}
    _bars(file_axes, list(sizes), [(sizes, plot_style.GREEN, "")])
    file_axes.set_xlabel("largest kept files at the ref (kB)")
    figure.suptitle(f"{_names(report)}: kept text")
    return figure


@plot_style.common_style
def plot_dropped(report: Mapping[str, Any]) -> Figure:
    """Plot dropped rows and bytes by reason, and masked secrets by kind.

    Args:
        report: As in ``ingest_report.json``.
    """
    files, history = _head_snapshots(report), report["history"]
    figure, (rows_axes, bytes_axes, masks_axes) = plot_style.new_figure(3.6, columns=3)
    for axes, key, scale in ((rows_axes, "rows", 1), (bytes_axes, "bytes", _MEGA)):
        in_files = _scaled(_dropped(files, key), scale)
        in_patches = _scaled(_dropped(history, key), scale)
        reasons = [
            name for name, _ in (_dropped(files, "rows") + _dropped(history, "rows")).most_common()
        ]
        _bars(
            axes,
            reasons,
            [(in_files, plot_style.BLUE, "files"), (in_patches, plot_style.ORANGE, "changes")],
        )
    # Logarithmic: a thousand of one reason must not hide a few of another.
    rows_axes.set_xscale("symlog", linthresh=1)
    rows_axes.set_xlabel("dropped (files, changes)")
    bytes_axes.set_xscale("symlog", linthresh=0.1)
    bytes_axes.set_xlabel("dropped (MB)")
    bytes_axes.set_yticklabels([])
    if rows_axes.get_legend_handles_labels()[0]:
        rows_axes.legend(fontsize="small", loc="lower right")
    masks = _sum(counts["redactions"] for counts in (*history, *files))
    _bars(
        masks_axes,
        [kind for kind, _ in masks.most_common(_MAX_BARS)],
        [(masks, plot_style.GREEN, "")],
    )
    masks_axes.set_xlabel("masked (placeholders)")
    figure.suptitle(f"{_names(report)}: dropped and masked")
    return figure


def _bars(
    axes: Axes, names: Sequence[str], groups: Sequence[tuple[Mapping[str, float], str, str]]
) -> None:
    """Plot a horizontal bar for each name and group, the first name on top."""
    height = 0.8 / len(groups)
    for index, (values, color, label) in enumerate(groups):
        positions = [row + index * height for row in range(len(names))]
        axes.barh(positions, [values.get(name, 0) for name in names], height=height, color=color,
                  label=label)  # fmt: skip
    middle = (len(groups) - 1) * height / 2
    axes.set_yticks([row + middle for row in range(len(names))], list(map(_label, names)))
    axes.tick_params(axis="y", labelsize="small")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    if not names:
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes)


def _label(text: str) -> str:
    """Shorten a path to its end, and escape ``$``, which starts a formula in matplotlib."""
    shown = text if text.isprintable() else ascii(text)[1:-1]
    if len(shown) > _MAX_LABEL_CHARACTERS:
        shown = "…" + shown[-_MAX_LABEL_CHARACTERS:]
    return shown.replace("$", r"\$")


def _names(report: Mapping[str, Any]) -> str:
    return _label(", ".join(counts["repo"] for counts in report["history"]))


def _head_snapshots(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the counts of the last snapshot of each repository, which is at the ref."""
    return list({counts["repo"]: counts for counts in report["snapshots"]}.values())


def _dropped(counts: Iterable[Mapping[str, Any]], key: str) -> Counter[str]:
    return _sum(
        {reason: dropped[key] for reason, dropped in one["dropped"].items()} for one in counts
    )


def _scaled(counts: Counter[str], unit: int) -> Any:
    return Counter({name: value / unit for name, value in counts.items()})


def _sum(parts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total = Counter[str]()
    for part in parts:
        total.update(part)
    return Counter(dict(sorted(total.items())))
