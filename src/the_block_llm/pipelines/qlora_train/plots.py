"""The picture of a run."""

from typing import Any

from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers, on white and on black.
_TRAIN, _VALIDATION, _RATE = "#0072B2", "#D55E00", "#7F7F7F"


def plot_training(metrics: dict[str, Any]) -> Figure:
    """Draw loss and learning rate over the optimizer steps.

    Args:
        metrics: As in ``training_metrics.json``.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    train, validation = metrics["train_history"], metrics["validation_history"]
    axes.plot(
        [e["step"] for e in train], [e["loss"] for e in train],
        color=_TRAIN, marker=".", label="training",
    )  # fmt: skip
    axes.plot(
        [e["step"] for e in validation], [e["loss"] for e in validation],
        color=_VALIDATION, marker="o", label="validation",
    )  # fmt: skip
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    rate = axes.twinx()
    rate.plot(
        [e["step"] for e in train], [e["learning_rate"] for e in train],
        color=_RATE, linestyle="--", linewidth=1, label="learning rate",
    )  # fmt: skip
    rate.set_ylabel("learning rate", color=_RATE)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    handles = [*axes.get_legend_handles_labels()[0], *rate.get_legend_handles_labels()[0]]
    axes.legend(handles, [str(handle.get_label()) for handle in handles], frameon=False)
    axes.set_title(f"{metrics['profile']} on {metrics['device']}")
    return figure


def plot_memory(metrics: dict[str, Any]) -> Figure:
    """Draw the memory held over the optimizer steps, beside what was predicted and allowed.

    Args:
        metrics: As in ``training_metrics.json``.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    history = metrics["train_history"]
    axes.plot(
        [e["step"] for e in history], [e["memory_gib"] for e in history],
        color=_TRAIN, marker=".", label="measured",
    )  # fmt: skip
    predicted = metrics["predicted_peak_gib"]
    if predicted is not None:
        axes.axhline(predicted, color=_VALIDATION, linestyle="--", label="predicted peak")
    if metrics["memory_cap_gib"] is not None:
        axes.axhline(metrics["memory_cap_gib"], color=_RATE, label="cap")
    for event in metrics["out_of_memory"]:
        axes.axvline(event["step"], color=_RATE, linestyle=":", label="ran out of memory")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("memory (GiB)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.set_title(f"{metrics['profile']} on {metrics['device']}")
    return figure
