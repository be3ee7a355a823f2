"""A forest plot as inline SVG: differences with their intervals, around a line at zero.

Measures have different units, so each difference is drawn relative to the base's value, in
percent, turned so that right is better.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

_WIDTH: Final = 720
_LEFT: Final = 250
_RIGHT: Final = 120
_ROW: Final = 34
_TOP: Final = 30


def forest_plot(measures: Sequence[Mapping[str, Any]]) -> str:
    """Draw one row a measure; an interval that leaves the scale ends in an arrow.

    Args:
        measures: Of the report: ``title``, ``base``, ``difference``, ``low``, ``high``,
            ``higher_is_better``, ``outcome``. Those whose base value is 0 have no percentage
            and are left out.

    Returns:
        An ``<svg>`` element; colours come from the page's CSS classes.
    """
    rows = [(m, *_percentages(m)) for m in measures if m["base"]]
    reach = _reach(rows)
    height = _TOP + _ROW * len(rows) + 34
    zero = _x(0, reach)
    parts = [
        (
            f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Differences between the '
            f'tuned model and the base, with 95 percent intervals">'
        ),
        (
            f'<line class="zero" x1="{zero:.1f}" x2="{zero:.1f}" y1="{_TOP - 8}" '
            f'y2="{_TOP + _ROW * len(rows)}"/>'
        ),
        f'<text class="hint" x="{zero - 8:.1f}" y="14" text-anchor="end">← base better</text>',
        f'<text class="hint" x="{zero + 8:.1f}" y="14">tuned better →</text>',
    ]
    for place, (measure, middle, low, high) in enumerate(rows):
        y = _TOP + _ROW * place + _ROW / 2
        kind = measure["outcome"].split()[0]  # better, worse, no, too
        parts += [
            f'<g class="{kind}">',
            (
                f'<text x="{_LEFT - 14}" y="{y + 4:.1f}" text-anchor="end">'
                f"{escape(str(measure['title']))}</text>"
            ),
            (
                f'<line class="interval" x1="{_x(low, reach):.1f}" x2="{_x(high, reach):.1f}" '
                f'y1="{y:.1f}" y2="{y:.1f}"/>'
            ),
            *_arrows(low, high, reach, y),
            f'<circle cx="{_x(middle, reach):.1f}" cy="{y:.1f}" r="5"/>',
            (
                f'<text class="{"hint" if kind == "too" else ""}" x="{_WIDTH - _RIGHT + 14}" '
                f'y="{y + 4:.1f}">'
                f"{'too few items' if kind == 'too' else f'{middle:+.1f} %'}</text>"
            ),
            "</g>",
        ]
    y = _TOP + _ROW * len(rows) + 20
    for tick in (-reach, reach):
        parts.append(
            f'<text class="hint" x="{_x(tick, reach):.1f}" y="{y}" text-anchor="middle">'
            f"{tick:+.0f} %</text>"
        )
    parts.append("</svg>")
    return "\n".join(parts)


def _percentages(measure: Mapping[str, Any]) -> tuple[float, float, float]:
    """Difference, low and high end in percent of the base, larger meaning better."""
    values = [100 * measure[name] / measure["base"] for name in ("difference", "low", "high")]
    if not measure["higher_is_better"]:
        values = [-values[0], -values[2], -values[1]]
    middle, low, high = values
    return middle, low, high


def _reach(rows: Sequence[tuple[Mapping[str, Any], float, float, float]]) -> float:
    """Half the width of the scale, in percent.

    What showed a difference sets it: a measure of three items has an interval so wide that on
    its scale everything else would lie on the line.
    """
    shown = [values for m, *values in rows if m["outcome"] in {"better", "worse"}]
    told = [values for m, *values in rows if m["outcome"] != "too little data"]
    everything = [values for _, *values in rows]
    values = [abs(value) for row in shown or told or everything for value in row]
    return 1.5 * max([1.0, *values])


def _arrows(low: float, high: float, reach: float, y: float) -> list[str]:
    """Marks where an interval goes on beyond the scale."""
    return [
        f'<text x="{_x(end, reach):.1f}" y="{y + 5:.1f}" text-anchor="middle">{mark}</text>'
        for end, mark, beyond in ((low, "◂", low < -reach), (high, "▸", high > reach))
        if beyond
    ]


def _x(percent: float, reach: float) -> float:
    percent = max(-reach, min(reach, percent))
    return _LEFT + (percent + reach) / (2 * reach) * (_WIDTH - _LEFT - _RIGHT)
