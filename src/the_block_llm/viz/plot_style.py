"""Common style of all plots: light background, few lines, color-blind safe colors."""

import functools
from collections.abc import Callable
from typing import Any, Final, ParamSpec

from matplotlib import rc_context
from matplotlib.figure import Figure

# Palette of Okabe and Ito, distinguishable with color vision deficiency.
BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREEN: Final = "#009E73"
SKY: Final = "#56B4E9"
GREY: Final = "#767676"
WIDTH_IN: Final = 8.0  # text width of a README at 144 dpi

_STYLE: Final[dict[str, Any]] = {
    # Opaque: on a transparent background dark text is unreadable in dark mode.
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.edgecolor": "#9A9A9A",
    "axes.labelcolor": "#333333",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "large",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.8,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "lines.linewidth": 1.8,
    "legend.frameon": False,
}

_P = ParamSpec("_P")


def common_style(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Draw the figure of ``draw`` in the common style, without changing global settings."""

    @functools.wraps(draw)
    def draw_styled(*values: _P.args, **options: _P.kwargs) -> Figure:
        with rc_context(_STYLE):
            return draw(*values, **options)

    return draw_styled


def new_figure(height_in: float, columns: int = 1) -> tuple[Figure, list[Any]]:
    """Create a figure of the common width.

    Args:
        height_in: Height in inches.
        columns: Number of axes side by side.

    Returns:
        The figure and its axes from left to right.
    """
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])
