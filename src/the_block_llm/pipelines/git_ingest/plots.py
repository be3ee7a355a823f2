"""Pictures of what was read: commits over time, and what was left out."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from the_block_llm import plot_style
from the_block_llm.datasets.parts import ParquetParts
from the_block_llm.schemas import DROP_REASONS

_BINS: Final = 40


@plot_style.common_style
def plot_history(commits: ParquetParts, repository: Mapping[str, Any]) -> Figure:
    """Draw when commits were made, of what use their subjects are, and the cut-off.

    Args:
        commits: The table; three of its columns are read.
        repository: As in ``repository.json``.
    """
    times: dict[str, list[float]] = {"says something": [], "says nothing": [], "merge": []}
    for row in commits.rows(["committed_at", "informative", "is_merge"]):
        says = "says something" if row["informative"] else "says nothing"
        times["merge" if row["is_merge"] else says].append(date2num(row["committed_at"]))
    figure, (axes,) = plot_style.new_figure(3.6)
    axes.hist(
        list(times.values()),
        bins=_BINS,
        stacked=True,
        color=[plot_style.BLUE, plot_style.ORANGE, plot_style.SKY],
        label=[f"{label}: {len(found):,}" for label, found in times.items()],
    )
    cutoff = datetime.fromisoformat(repository["cutoff"]["time"])
    axes.axvline(date2num(cutoff), color=plot_style.GREY, linestyle="--", label="cut-off")
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_ylabel("commits")
    axes.set_xlabel("time of the commit (UTC)")
    axes.set_title(f"{commits.num_rows:,} commits, by what their subject says")
    figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    return figure


@plot_style.common_style
def plot_left_out(report: Mapping[str, Any]) -> Figure:
    """Draw how many changes and files were left out, by reason.

    Args:
        report: As in ``ingest_report.json``.
    """
    # Of each repository the newest tree: the one at the ref.
    newest = {snapshot["repo"]: snapshot for snapshot in report["snapshots"]}.values()
    counts = {"changes": _dropped(report["history"]), "files": _dropped(newest)}
    reasons = [r for r in DROP_REASONS if any(counted[r] for counted in counts.values())]
    reasons.sort(key=lambda reason: sum(counted[reason] for counted in counts.values()))
    figure, (axes,) = plot_style.new_figure(max(2.0, 0.45 * len(reasons) + 1.2))
    for (label, counted), offset, colour in zip(
        counts.items(), (0.2, -0.2), (plot_style.BLUE, plot_style.ORANGE), strict=True
    ):
        places = [place + offset for place in range(len(reasons))]
        numbers = [counted[reason] for reason in reasons]
        bars = axes.barh(places, numbers, height=0.38, color=colour, label=label)
        axes.bar_label(bars, [f"{n:,}" if n else "" for n in numbers], padding=3, fontsize="small")
    axes.set_yticks(range(len(reasons)), [reason.replace("_", " ") for reason in reasons])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("left out (number)")
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.08)
    kept = sum(found["kept_rows"] for found in report["history"])
    axes.set_title(f"What was left out, beside {kept:,} changes that were kept")
    if reasons:
        axes.legend(loc="lower right")
    return figure


def _dropped(counts: Any) -> Counter[str]:
    found: Counter[str] = Counter()
    for one in counts:
        found.update({reason: n["rows"] for reason, n in one["dropped"].items()})
    return found
