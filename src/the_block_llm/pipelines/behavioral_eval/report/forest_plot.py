"""Forest plot as inline SVG: differences with confidence intervals around a zero line.

Metrics have different units, so each difference is drawn in percent of the base value, with
the sign chosen so that improvements are on the right.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

_WIDTH_PX: Final = 720
_LEFT_PX: Final = 250
_RIGHT_PX: Final = 120
_ROW_PX: Final = 34
_TOP_PX: Final = 30


def forest_plot(measures: Sequence[Mapping[str, Any]]) -> str:
    """Draw one row per metric; an interval that exceeds the axis ends in an arrow.

    Args:
        measures: Entries of the report's ``measures``, with ``title``, ``base``,
            ``difference``, ``low``, ``high``, ``higher_is_better`` and ``outcome``. Entries with
            a base value of 0 are skipped, since their percentage is undefined.

    Returns:
        An ``<svg>`` element, colored by the CSS classes of the page.
    """
    rows = [(m, *_relative_percent(m)) for m in measures if m["base"]]
    limit = _axis_limit(rows)
    axis_bottom = _TOP_PX + _ROW_PX * len(rows)
    zero = _x_position(0, limit)
    parts = [
        (
            f'<svg viewBox="0 0 {_WIDTH_PX} {axis_bottom + 34}" role="img" '
            'aria-label="Differences between the tuned model and the base, with 95 percent '
            'intervals">'
        ),
        (
            f'<line class="zero" x1="{zero:.1f}" x2="{zero:.1f}" y1="{_TOP_PX - 8}" '
            f'y2="{axis_bottom}"/>'
        ),
        f'<text class="hint" x="{zero - 8:.1f}" y="14" text-anchor="end">← base better</text>',
        f'<text class="hint" x="{zero + 8:.1f}" y="14">tuned better →</text>',
    ]
    for index, (measure, estimate, low, high) in enumerate(rows):
        y = _TOP_PX + _ROW_PX * index + _ROW_PX / 2
        x, x_low, x_high = (_x_position(percent, limit) for percent in (estimate, low, high))
        outcome = measure["outcome"].split()[0]  # better, worse, no, too
        label = "too few items" if outcome == "too" else f"{estimate:+.1f} %"
        parts += [
            f'<g class="{outcome}">',
            (
                f'<text x="{_LEFT_PX - 14}" y="{y + 4:.1f}" text-anchor="end">'
                f"{escape(str(measure['title']))}</text>"
            ),
            (
                f'<line class="interval" x1="{x_low:.1f}" x2="{x_high:.1f}" '
                f'y1="{y:.1f}" y2="{y:.1f}"/>'
            ),
            *_clipping_arrows(low, high, limit, y),
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"/>',
            (
                f'<text class="{"hint" if outcome == "too" else ""}" '
                f'x="{_WIDTH_PX - _RIGHT_PX + 14}" y="{y + 4:.1f}">{label}</text>'
            ),
            "</g>",
        ]
    for tick in (-limit, limit):
        parts.append(
            f'<text class="hint" x="{_x_position(tick, limit):.1f}" y="{axis_bottom + 20}" '
            f'text-anchor="middle">{tick:+.0f} %</text>'
        )
    parts.append("</svg>")
    return "\n".join(parts)


def _relative_percent(measure: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return estimate, low and high end in percent of the base; positive means improvement."""
    values = [100 * measure[name] / measure["base"] for name in ("difference", "low", "high")]
    if not measure["higher_is_better"]:
        values = [-values[0], -values[2], -values[1]]
    estimate, low, high = values
    return estimate, low, high


def _axis_limit(rows: Sequence[tuple[Mapping[str, Any], float, float, float]]) -> float:
    """Return the absolute limit of the symmetric axis, in percent.

    Metrics that show a difference determine it. The wide interval of a metric with few items
    would compress all others to the zero line.
    """
    significant = [values for m, *values in rows if m["outcome"] in {"better", "worse"}]
    with_enough_data = [values for m, *values in rows if m["outcome"] != "too little data"]
    all_rows = [values for _, *values in rows]
    values = [abs(value) for row in significant or with_enough_data or all_rows for value in row]
    return 1.5 * max([1.0, *values])


def _clipping_arrows(low: float, high: float, limit: float, y: float) -> list[str]:
    """Return arrows at the ends of an interval that exceeds the axis."""
    return [
        f'<text x="{_x_position(end, limit):.1f}" y="{y + 5:.1f}" text-anchor="middle">'
        f"{arrow}</text>"
        for end, arrow, is_clipped in ((low, "◂", low < -limit), (high, "▸", high > limit))
        if is_clipped
    ]


def _x_position(percent: float, limit: float) -> float:
    percent = max(-limit, min(limit, percent))
    return _LEFT_PX + (percent + limit) / (2 * limit) * (_WIDTH_PX - _LEFT_PX - _RIGHT_PX)
