"""The one look of all plots: light ground, few lines, colours that everybody tells apart."""

import functools
from collections.abc import Callable
from typing import Any, Final, ParamSpec

from matplotlib import rc_context
from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by readers who do not see red or green.
BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREEN: Final = "#009E73"
SKY: Final = "#56B4E9"
GREY: Final = "#767676"
WIDTH_IN: Final = 8.0  # as wide as the text of a README at 144 dots an inch

_STYLE: Final[dict[str, Any]] = {
    # Opaque, so that a dark page does not swallow the text.
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
    """Let what a function draws have the common style, and nothing else in the process."""

    @functools.wraps(draw)
    def styled(*values: _P.args, **options: _P.kwargs) -> Figure:
        with rc_context(_STYLE):
            return draw(*values, **options)

    return styled


def new_figure(height_in: float, columns: int = 1) -> tuple[Figure, list[Any]]:
    """Make a figure of the common width.

    Args:
        height_in: Its height in inches.
        columns: Plots side by side.

    Returns:
        The figure and its axes from left to right.
    """
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])
