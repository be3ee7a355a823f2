"""Pictures of a repository as it was read: its history, what is kept and what is left out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from the_block_llm.schemas import COMMIT_KINDS

# Okabe and Ito's palette: told apart by colour-blind readers, on white and on black.
_FIRST, _SECOND, _THIRD = "#0072B2", "#D55E00", "#009E73"
_KILO, _MEGA = 1_000, 1_000_000
_MOST_BARS: Final = 12
_LABEL_CHARACTERS: Final = 44
_FEW_MONTHS: Final = 36


def plot_history(report: Mapping[str, Any]) -> Figure:
    """Draw the commits over time, and how many there are of each kind.

    Args:
        report: As in ``ingest_report.json``; several repositories are added up.
    """
    history = report["history"]
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    over_time, of_kind = figure.subplots(1, 2, width_ratios=(3, 2))
    months = _sum(counts["commits_by_month"] for counts in history)
    telling = _sum(counts["informative_by_month"] for counts in history)
    at = [int(month[:4]) + (int(month[5:7]) - 0.5) / 12 for month in months]
    said = [telling[month] for month in months]
    silent = [n_commits - telling[month] for month, n_commits in months.items()]
    over_time.bar(at, said, width=1 / 12, color=_FIRST, label="the subject says something")
    over_time.bar(at, silent, width=1 / 12, bottom=said, color=_SECOND,
                  label="the subject says nothing")  # fmt: skip
    over_time.set_ylabel("commits a month")
    if len(months) <= _FEW_MONTHS:
        every = -(-len(months) // 6)
        over_time.set_xticks(at[::every], list(months)[::every])
        over_time.set_xlabel("month")
    else:
        over_time.xaxis.get_major_locator().set_params(integer=True)
        over_time.set_xlabel("year")
    over_time.grid(axis="y", alpha=0.3)
    over_time.legend(frameon=False, fontsize="small")
    kinds = _sum(counts["kinds"] for counts in history)
    _bars(of_kind, [kind for kind in COMMIT_KINDS if kinds[kind]], [(kinds, _FIRST, "")])
    of_kind.set_xlabel("commits")
    n_commits = sum(months.values())
    share = sum(telling.values()) / max(1, n_commits)
    figure.suptitle(f"{_names(report)}: {n_commits:,} commits, {share:.0%} informative")
    return figure


def plot_kept(report: Mapping[str, Any]) -> Figure:
    """Draw how much is kept of each language, and the largest files that are kept.

    Args:
        report: As in ``ingest_report.json``.
    """
    files = _at_ref(report)
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    of_language, of_file = figure.subplots(1, 2)
    in_files = _scaled(_sum(c["kept_bytes_by_language"] for c in files), _MEGA)
    in_patches = _scaled(_sum(c["kept_bytes_by_language"] for c in report["history"]), _MEGA)
    languages = [name for name, _ in (in_files + in_patches).most_common(_MOST_BARS)]
    _bars(of_language, languages,
          [(in_files, _FIRST, "files at the ref"), (in_patches, _SECOND, "patches")])  # fmt: skip
    of_language.set_xlabel("kept (MB)")
    of_language.legend(frameon=False, fontsize="small", loc="lower right")
    largest = [entry for counts in files for entry in counts["largest_kept"]]
    largest.sort(key=lambda entry: -entry["bytes"])
    sizes = {entry["path"]: entry["bytes"] / _KILO for entry in largest[:_MOST_BARS]}
    _bars(of_file, list(sizes), [(sizes, _THIRD, "")])
    of_file.set_xlabel("largest kept files at the ref (kB)")
    figure.suptitle(f"{_names(report)}: what there is to learn from")
    return figure


def plot_left_out(report: Mapping[str, Any]) -> Figure:
    """Draw what is left out for which reason, and what was masked.

    Args:
        report: As in ``ingest_report.json``.
    """
    files, history = _at_ref(report), report["history"]
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    of_rows, of_bytes, of_masks = figure.subplots(1, 3)
    for axes, what, scale in ((of_rows, "rows", 1), (of_bytes, "bytes", _MEGA)):
        in_files = _scaled(_dropped(files, what), scale)
        in_patches = _scaled(_dropped(history, what), scale)
        reasons = [
            name for name, _ in (_dropped(files, "rows") + _dropped(history, "rows")).most_common()
        ]
        _bars(axes, reasons, [(in_files, _FIRST, "files"), (in_patches, _SECOND, "changes")])
    # A thousand of one reason must not hide a few of another.
    of_rows.set_xscale("symlog", linthresh=1)
    of_rows.set_xlabel("left out (files, changes)")
    of_bytes.set_xscale("symlog", linthresh=0.01)
    of_bytes.set_xlabel("left out (MB)")
    of_bytes.set_yticklabels([])
    if of_rows.get_legend_handles_labels()[0]:
        of_rows.legend(frameon=False, fontsize="small", loc="lower right")
    masks = _sum(counts["redactions"] for counts in (*history, *files))
    _bars(of_masks, [kind for kind, _ in masks.most_common(_MOST_BARS)], [(masks, _THIRD, "")])
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
    axes.grid(axis="x", alpha=0.3)
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
