"""Pictures of what was read: the commits, what there is to learn from, what was left out."""

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
_MOST_BARS: Final = 12
_LABEL_CHARACTERS: Final = 36


@plot_style.common_style
def plot_history(commits: ParquetTable, repository: Mapping[str, Any]) -> Figure:
    """Draw when commits were made, of what use their subjects are, the cut-off, and the kinds.

    Args:
        commits: The table; four of its columns are read.
        repository: As in ``repository.json``.
    """
    times: dict[str, list[float]] = {"says something": [], "says nothing": [], "merge": []}
    kinds = Counter[str]()
    for row in commits.rows(["committed_at", "informative", "is_merge", "kind"]):
        kinds[row["kind"]] += 1
        says = "says something" if row["informative"] else "says nothing"
        times["merge" if row["is_merge"] else says].append(date2num(row["committed_at"]))
    figure, (axes, of_kind) = plot_style.new_figure(3.6, columns=2)
    axes.hist(
        list(times.values()),
        bins=_BINS,
        stacked=True,
        color=[plot_style.BLUE, plot_style.ORANGE, plot_style.SKY],
        label=[f"{label}: {len(found):,}" for label, found in times.items()],
    )
    cutoff = datetime.fromisoformat(repository["cutoff"]["time"])
    axes.axvline(date2num(cutoff), color=plot_style.GREY, linestyle="--", label="cut-off")
    # Half a figure has room for six; more run into each other.
    locator = AutoDateLocator(minticks=2, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_ylabel("commits")
    axes.set_xlabel("time of the commit (UTC)")
    axes.set_title(f"{commits.num_rows:,} commits, by what their subject says")
    named = [kind for kind in COMMIT_KINDS if kinds[kind]]
    _bars(of_kind, named, [(kinds, plot_style.BLUE, "")])
    of_kind.set_xlabel("commits of a kind")
    figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    return figure


@plot_style.common_style
def plot_kept(report: Mapping[str, Any]) -> Figure:
    """Draw how much is kept of each language, and the largest files that are kept.

    Args:
        report: As in ``ingest_report.json``.
    """
    files = _at_ref(report)
    figure, (of_language, of_file) = plot_style.new_figure(3.6, columns=2)
    in_files = _scaled(_sum(c["kept_bytes_by_language"] for c in files), _MEGA)
    in_patches = _scaled(_sum(c["kept_bytes_by_language"] for c in report["history"]), _MEGA)
    languages = [name for name, _ in (in_files + in_patches).most_common(_MOST_BARS)]
    files_and_patches = [
        (in_files, plot_style.BLUE, "files at the ref"),
        (in_patches, plot_style.ORANGE, "patches"),
    ]
    _bars(of_language, languages, files_and_patches)
    of_language.set_xlabel("kept (MB)")
    of_language.legend(fontsize="small", loc="lower right")
    largest = [entry for counts in files for entry in counts["largest_kept"]]
    largest.sort(key=lambda entry: -entry["bytes"])
    sizes = {entry["path"]: entry["bytes"] / _KILO for entry in largest[:_MOST_BARS]}
    _bars(of_file, list(sizes), [(sizes, plot_style.GREEN, "")])
    of_file.set_xlabel("largest kept files at the ref (kB)")
    figure.suptitle(f"{_names(report)}: what there is to learn from")
    return figure


@plot_style.common_style
def plot_left_out(report: Mapping[str, Any]) -> Figure:
    """Draw what is left out for which reason, and what was masked.

    Args:
        report: As in ``ingest_report.json``.
    """
    files, history = _at_ref(report), report["history"]
    figure, (of_rows, of_bytes, of_masks) = plot_style.new_figure(3.6, columns=3)
    for axes, what, scale in ((of_rows, "rows", 1), (of_bytes, "bytes", _MEGA)):
        in_files = _scaled(_dropped(files, what), scale)
        in_patches = _scaled(_dropped(history, what), scale)
        reasons = [
            name for name, _ in (_dropped(files, "rows") + _dropped(history, "rows")).most_common()
        ]
        _bars(
            axes,
            reasons,
            [(in_files, plot_style.BLUE, "files"), (in_patches, plot_style.ORANGE, "changes")],
        )
    # A thousand of one reason must not hide a few of another.
    of_rows.set_xscale("symlog", linthresh=1)
    of_rows.set_xlabel("left out (files, changes)")
    of_bytes.set_xscale("symlog", linthresh=0.1)
    of_bytes.set_xlabel("left out (MB)")
    of_bytes.set_yticklabels([])
    if of_rows.get_legend_handles_labels()[0]:
        of_rows.legend(fontsize="small", loc="lower right")
    masks = _sum(counts["redactions"] for counts in (*history, *files))
    _bars(
        of_masks,
        [kind for kind, _ in masks.most_common(_MOST_BARS)],
        [(masks, plot_style.GREEN, "")],
    )
    of_masks.set_xlabel("masked (marks)")
    figure.suptitle(f"{_names(report)}: what is not learned from")
    return figure


def _bars(
    axes: Axes, names: Sequence[str], groups: Sequence[tuple[Mapping[str, float], str, str]]
) -> None:
    """Draw a horizontal bar for each name and group, the first name on top."""
    height = 0.8 / len(groups)
    for index, (values, colour, label) in enumerate(groups):
        at = [place + index * height for place in range(len(names))]
        axes.barh(at, [values.get(name, 0) for name in names], height=height, color=colour,
                  label=label)  # fmt: skip
    middle = (len(groups) - 1) * height / 2
    axes.set_yticks([place + middle for place in range(len(names))], list(map(_label, names)))
    axes.tick_params(axis="y", labelsize="small")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    if not names:
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes)


def _label(text: str) -> str:
    """Shorten a path to its end; what matplotlib would read as a formula is only text."""
    shown = text if text.isprintable() else ascii(text)[1:-1]
    if len(shown) > _LABEL_CHARACTERS:
        shown = "…" + shown[-_LABEL_CHARACTERS:]
    return shown.replace("$", r"\$")


def _names(report: Mapping[str, Any]) -> str:
    return _label(", ".join(counts["repo"] for counts in report["history"]))


def _at_ref(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Counts of the newest snapshot of each repository, which comes last."""
    return list({counts["repo"]: counts for counts in report["snapshots"]}.values())


def _dropped(counts: Iterable[Mapping[str, Any]], what: str) -> Counter[str]:
    return _sum(
        {reason: dropped[what] for reason, dropped in one["dropped"].items()} for one in counts
    )


def _scaled(counts: Counter[str], unit: int) -> Any:
    return Counter({name: value / unit for name, value in counts.items()})


def _sum(parts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total = Counter[str]()
    for part in parts:
        total.update(part)
    return Counter(dict(sorted(total.items())))
