"""Plots of a run: loss, learning rate and memory over the optimizer steps."""

from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from the_block_llm.viz import plot_style

_SMOOTH_FROM_STEPS: Final = 150
_TRAIN, _VALIDATION, _LEARNING_RATE = plot_style.BLUE, plot_style.ORANGE, plot_style.GREY


@plot_style.common_style
def plot_training(metrics: dict[str, Any]) -> Figure:
    """Plot loss and learning rate over the optimizer steps.

    Args:
        metrics: As in ``training_metrics.json``.
    """
    figure, (axes,) = plot_style.new_figure(4.2)
    train, validation = metrics["train_history"], metrics["validation_history"]
    _plot_losses(axes, [e["step"] for e in train], [e["loss"] for e in train])
    axes.plot(
        [e["step"] for e in validation], [e["loss"] for e in validation],
        color=_VALIDATION, marker="o", label="validation",
    )  # fmt: skip
    best = [e for e in validation if e["step"] == metrics["best_step"]]
    if best:
        axes.plot(
            best[0]["step"], best[0]["loss"], color=_VALIDATION, marker="*", markersize=16,
            linestyle="none", label="best checkpoint",
        )  # fmt: skip
    for number, step in enumerate(metrics["epoch_ends"][:-1]):
        label = "" if number else "end of epoch"
        axes.axvline(step, color=_LEARNING_RATE, linewidth=1, linestyle=":", label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per token)")
    rate = axes.twinx()
    rate.plot(
        [e["step"] for e in train], [e["learning_rate"] for e in train],
        color=_LEARNING_RATE, linestyle="--", linewidth=1, label="learning rate",
    )  # fmt: skip
    rate.set_ylabel("learning rate", color=_LEARNING_RATE)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rate.set_ylim(bottom=0)
    rate.grid(visible=False)
    handles = [*axes.get_legend_handles_labels()[0], *rate.get_legend_handles_labels()[0]]
    axes.legend(handles, [str(handle.get_label()) for handle in handles])
    axes.set_title(f"Loss of {metrics['profile']}, trained on {metrics['device']}")
    return figure


def _plot_losses(axes: Axes, steps: list[int], losses: list[float]) -> None:
    """Plot the loss of each step, with a moving average for long runs."""
    if len(steps) < _SMOOTH_FROM_STEPS:
        axes.plot(steps, losses, color=_TRAIN, marker=".", label="training")
        return
    window = len(steps) // 50
    means = np.convolve(losses, np.full(window, 1 / window), mode="valid")
    middle = steps[window // 2 :][: len(means)]
    axes.plot(steps, losses, color=_TRAIN, linewidth=0.6, alpha=0.35)
    axes.plot(middle, means, color=_TRAIN, label=f"training, mean over {window} steps")


@plot_style.common_style
def plot_memory(metrics: dict[str, Any]) -> Figure:
    """Plot memory over the optimizer steps, with the predicted peak and the limit.

    Args:
        metrics: As in ``training_metrics.json``.
    """
    figure, (axes,) = plot_style.new_figure(4.2)
    history = metrics["train_history"]
    axes.plot(
        [e["step"] for e in history], [e["memory_gib"] for e in history],
        color=_TRAIN, marker=".", label="measured",
    )  # fmt: skip
    predicted = metrics["predicted_peak_gib"]
    if predicted is not None:
        axes.axhline(predicted, color=_VALIDATION, linestyle="--", label="predicted peak")
    cap = metrics["memory_cap_gib"]
    if cap is not None:
        axes.axhline(cap, color=plot_style.GREEN, linestyle="-.", label="cap")
    for event in metrics["out_of_memory"]:
        axes.axvline(event["step"], color=_LEARNING_RATE, linestyle=":", label="out of memory")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("memory (GiB)")
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.1)
    axes.legend()
    axes.set_title(f"Memory of {metrics['profile']}, trained on {metrics['device']}")
    return figure
