import importlib.util
from pathlib import Path

import pytest
from tests.pipelines.qlora_train.jobs import replace_fields

from the_block_llm.errors import ParameterError
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.loop.train_run import train


def test_tensorboard_logs_loss_learning_rate_and_validation(
    job: TrainingJob, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = train(
        replace_fields(job, tensorboard_folder=tmp_path / "curves", max_steps=2)
    ).metrics
    events = EventAccumulator(str(tmp_path / "curves")).Reload()
    assert {"train/loss", "train/learning_rate", "eval/loss"} <= set(events.Tags()["scalars"])
    logged = [event.value for event in events.Scalars("train/loss")]
    assert logged == pytest.approx([entry["loss"] for entry in metrics["train_history"]])


def test_tensorboard_without_the_package_names_the_install_command(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else original(name)
    )
    with pytest.raises(ParameterError, match="pip install tensorboard"):
        train(replace_fields(job, tensorboard_folder=tmp_path / "curves", max_steps=1))
