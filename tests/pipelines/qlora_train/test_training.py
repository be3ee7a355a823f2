from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from kedro.io import DatasetError
from peft import PeftModel
from safetensors.torch import load_file
from tests.builders.tiny_llama import save_tiny_llama, tiny_profile
from transformers import AutoModelForCausalLM

from the_block_llm import schemas
from the_block_llm.datasets.adapter import AdapterDataset
from the_block_llm.datasets.parts import ParquetParts, save_parts
from the_block_llm.errors import AdapterError, TooLittleDataError, TrainingError
from the_block_llm.models.adapter_manifest import open_adapter
from the_block_llm.models.adapters import load_with_adapter
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.row_table import RowTable
from the_block_llm.pipelines.qlora_train.training import train


def row(text: str, n_masked: int = 1) -> dict[str, Any]:
    # The byte tokenizer's ids are 4 + the position in the sorted byte alphabet; any ids do here.
    ids = [4 + byte % 200 for byte in text.encode()]
    return {
        "input_ids": ids,
        "labels_mask": [i >= n_masked for i in range(len(ids))],
        "segment_lengths": [len(ids)],
        "document_ids": ["d"],
        "n_tokens": len(ids),
        "stage": 0,
    }


def save_rows(folder: Path, rows: list[dict[str, Any]]) -> Path:
    save_parts(folder, schemas.ROWS, [pa.Table.from_pylist(rows, schemas.ROWS)])
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture
def job(base: Path, tmp_path: Path) -> TrainingJob:
    profile = tiny_profile(base)
    text = "the state manager applies the block after consensus has finalised it; "
    return TrainingJob(
        profile=profile,
        values=profile.training,
        force_epochs=6,
        max_steps=None,
        train_folder=save_rows(tmp_path / "train", [row(text[i:]) for i in range(16)]),
        validation_folder=save_rows(tmp_path / "validation", [row(text[3:])]),
        work_folder=tmp_path / "models",
        git_commit="0" * 40,
    )


def trace(job: TrainingJob) -> list[float]:
    return [step["loss"] for step in train(job).metrics["train_history"]]


def test_training_lowers_the_loss_and_leaves_a_complete_adapter(
    job: TrainingJob, base: Path
) -> None:
    outcome = train(job)
    metrics = outcome.metrics
    assert metrics["steps_done"] == 24
    assert metrics["validation_loss_after"] < 0.7 * metrics["validation_loss_before"]
    manifest = open_adapter(outcome.adapter_folder).manifest
    assert manifest.profile == "tiny"
    assert set(manifest.data_hashes) == {"train", "validation"}
    assert manifest.library_versions["torch"] == torch.__version__
    assert not list((job.work_folder / "tiny").glob(".training-*")), "no leftovers of the run"

    # Saved, loaded and measured again: the same model.
    validation = RowTable(ParquetParts(job.validation_folder))[0]
    ids = torch.tensor(validation["input_ids"])[None].long()
    model = load_with_adapter(job.profile, outcome.adapter_folder)
    with torch.no_grad():
        loss = float(model(ids, labels=ids).loss)
    assert loss == pytest.approx(metrics["validation_loss_after"], abs=1e-4)


def test_the_adapter_loads_with_plain_peft_over_the_base_folder(
    job: TrainingJob, base: Path
) -> None:
    folder = train(job).adapter_folder
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    saved = load_file(folder / "adapter_model.safetensors")
    loaded = dict(model.named_parameters())
    for name, tensor in saved.items():
        assert torch.equal(loaded[name.replace(".weight", ".default.weight")], tensor)
    assert any(bool(tensor.any()) for name, tensor in saved.items() if "lora_B" in name)


def test_eight_times_one_and_one_times_eight_are_the_same_run(job: TrainingJob) -> None:
    values = job.values.model_copy(update={"effective_batch_rows": 8, "micro_batch_rows": 1})
    # Rows of unequal length and unequal masks: averaging means of rows would show.
    uneven = [row("x" * (10 + 7 * i) + "yz", n_masked=1 + i) for i in range(16)]
    save_rows(job.train_folder, uneven)
    one_by_one = job.model_copy(update={"values": values, "force_epochs": 2})
    at_once = one_by_one.model_copy(
        update={"values": values.model_copy(update={"micro_batch_rows": 8})}
    )
    assert trace(one_by_one) == pytest.approx(trace(at_once), rel=1e-4)


def test_two_runs_with_one_seed_agree(job: TrainingJob) -> None:
    assert trace(job) == trace(job)


def test_a_run_cut_off_resumes_with_the_same_losses(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(job).metrics["train_history"]
    from the_block_llm.pipelines.qlora_train import watching

    class Killed(BaseException):
        pass

    def dies(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 11:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(watching.RunWatcher, "on_step_end", dies)
        with pytest.raises(Killed):
            train(job)
    resumed = train(job).metrics
    assert resumed["resumed_from"] == "checkpoint-10"
    assert resumed["train_history"] == whole


def test_the_base_is_bit_identical_after_training(job: TrainingJob, base: Path) -> None:
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    train(job)
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before


def test_rows_without_a_target_are_left_out_and_counted(job: TrainingJob) -> None:
    save_rows(job.train_folder, [row("all masked", n_masked=99), row("something to learn")])
    rows = RowTable(ParquetParts(job.train_folder))
    assert (len(rows), rows.rows_without_target) == (1, 1)
    assert train(job).metrics["rows_without_target"] == 1


def test_max_rows_takes_rows_spaced_over_the_table(job: TrainingJob) -> None:
    rows = RowTable(ParquetParts(job.train_folder), max_rows=4)
    lengths = [len(rows[i]["input_ids"]) for i in range(len(rows))]
    assert lengths == [70, 65, 60, 55]


def test_nothing_to_learn_is_a_plain_error(job: TrainingJob) -> None:
    save_rows(job.train_folder, [])
    with pytest.raises(TooLittleDataError, match="no training row"):
        train(job)


def test_a_loss_that_is_not_a_number_stops_the_run_with_advice(job: TrainingJob) -> None:
    values = job.values.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 1e30})
    with pytest.raises(TrainingError, match="Lower the learning rate"):
        train(job.model_copy(update={"values": values}))


def test_versions_stand_side_by_side_and_the_newest_is_loaded(
    job: TrainingJob, tmp_path: Path
) -> None:
    adapters = AdapterDataset(filepath=str(tmp_path / "adapters"))
    assert not adapters.exists()
    with pytest.raises(DatasetError, match="no trained adapter.*qlora_train") as caught:
        adapters.load()
    assert isinstance(caught.value.__cause__, AdapterError), "the command line looks for it there"
    short = job.model_copy(update={"max_steps": 1})
    adapters.save(train(short).adapter_folder)
    first = adapters.load().path
    adapters.save(train(short).adapter_folder)
    assert adapters.load().path > first
    assert first.is_dir()
    chosen = AdapterDataset(filepath=str(tmp_path / "adapters"), version=first.name)
    assert chosen.load().path == first
