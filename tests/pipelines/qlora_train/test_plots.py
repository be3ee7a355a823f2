"""Plots of a run, checked by the data of their lines."""

from typing import Any

from the_block_llm.pipelines.qlora_train.plots import plot_memory, plot_training

METRICS: dict[str, Any] = {
    "profile": "tiny",
    "device": "a card",
    "train_history": [
        {"step": 1, "loss": 3.0, "learning_rate": 1e-4, "memory_gib": 4.0},
        {"step": 2, "loss": 2.0, "learning_rate": 2e-4, "memory_gib": 4.5},
    ],
    "validation_history": [{"step": 0, "loss": 3.1}, {"step": 2, "loss": 2.2}],
    "predicted_peak_gib": 4.6,
    "memory_cap_gib": 7.0,
    "out_of_memory": [{"step": 1, "went_on_with_rows": 1}],
    "best_step": 2,
    "epoch_ends": [1, 2],
}


def lines(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.get_lines()
    }


def test_losses_and_learning_rate_are_plotted_over_steps() -> None:
    loss, rate = plot_training(METRICS).axes
    assert lines(loss) == {
        "training": ([1, 2], [3.0, 2.0]),
        "validation": ([0, 2], [3.1, 2.2]),
        "best checkpoint": ([2], [2.2]),
        "end of epoch": ([1, 1], [0, 1]),
    }
    assert lines(rate) == {"learning rate": ([1, 2], [1e-4, 2e-4])}


def test_long_runs_are_plotted_with_a_moving_average() -> None:
    steps = [
        {"step": n, "loss": float(n % 2), "learning_rate": 1e-4, "memory_gib": 1.0}
        for n in range(1, 201)
    ]
    loss, _ = plot_training({**METRICS, "train_history": steps, "epoch_ends": [200]}).axes
    xs, ys = lines(loss)["training, mean over 4 steps"]
    assert ys == [0.5] * 197
    assert (xs[0], xs[-1]) == (3, 199)
    assert "end of epoch" not in lines(loss)


def test_memory_is_plotted_with_predicted_peak_and_cap() -> None:
    [axes] = plot_memory(METRICS).axes
    drawn = lines(axes)
    assert drawn["measured"] == ([1, 2], [4.0, 4.5])
    assert drawn["predicted peak"][1] == [4.6, 4.6]
    assert drawn["cap"][1] == [7.0, 7.0]
    assert drawn["out of memory"][0] == [1, 1]


def test_without_a_plan_only_measured_memory_is_plotted() -> None:
    plain = {**METRICS, "predicted_peak_gib": None, "memory_cap_gib": None, "out_of_memory": []}
    [axes] = plot_memory(plain).axes
    assert set(lines(axes)) == {"measured"}
