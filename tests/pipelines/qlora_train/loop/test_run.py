import shutil
from pathlib import Path

import pytest
import torch
from kedro.io import DatasetError
from peft import PeftModel
from safetensors.torch import load_file
from tests.builders.tiny_llama import byte_tokenizer
from tests.pipelines.qlora_train.jobs import (
    TEXT,
    change,
    losses,
    make_job,
    row,
    save_rows,
    trace,
    trained,
)
from transformers import AutoModelForCausalLM, Starcoder2Config, Starcoder2ForCausalLM

from the_block_llm.datasets.adapter import AdapterDataset
from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import AdapterError, AdapterTargetError, TooLittleDataError, TrainingError
from the_block_llm.models.adapter.adapters import load_with_adapter
from the_block_llm.models.adapter.manifest import open_adapter
from the_block_llm.models.base.quantized_loading import disable_inference_repacking
from the_block_llm.models.profiles import LoraSettings
from the_block_llm.pipelines.qlora_train.data.dataset import RowTable
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.loop.run import train


def test_training_lowers_the_loss_and_leaves_a_complete_adapter(job: TrainingJob) -> None:
    outcome = train(change(job, force_epochs=6))
    metrics = outcome.metrics
    assert metrics["steps_done"] == 24
    assert metrics["validation_loss_after"] < 0.7 * metrics["validation_loss_before"]
    manifest = open_adapter(outcome.adapter_folder).manifest
    assert manifest.profile == "tiny"
    assert set(manifest.data_hashes) == {"train", "validation"}
    assert manifest.library_versions["torch"] == torch.__version__
    assert not (job.work_folder / "tiny/.unfinished").exists(), "no leftovers of the run"

    # Saved, loaded and measured again: the same model.
    validation = RowTable(ParquetTable(job.validation_folder))[0]
    ids = torch.tensor(validation["input_ids"])[None].long()
    model = load_with_adapter(job.profile, outcome.adapter_folder)
    disable_inference_repacking(model)
    with torch.no_grad():
        loss = float(model(ids, labels=ids).loss)
    assert loss == pytest.approx(metrics["validation_loss_after"], abs=1e-4)


def test_a_run_of_one_step_learns_although_a_tenth_is_warm_up(job: TrainingJob) -> None:
    metrics = trained(change(job, max_steps=1, warmup_ratio=0.1, learning_rate=1e-3))
    assert metrics["train_history"][0]["learning_rate"] == 1e-3
    assert metrics["validation_loss_after"] < metrics["validation_loss_before"]


def test_the_adapter_loads_with_plain_peft_over_the_base_folder(
    job: TrainingJob, base: Path
) -> None:
    folder = train(change(job, max_steps=3)).adapter_folder
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    saved = load_file(folder / "adapter_model.safetensors")
    loaded = dict(model.named_parameters())
    for name, tensor in saved.items():
        assert torch.equal(loaded[name.replace(".weight", ".default.weight")], tensor)
    assert any(bool(tensor.any()) for name, tensor in saved.items() if "lora_B" in name)


def test_eight_times_one_and_one_times_eight_are_the_same_run(job: TrainingJob) -> None:
    # Rows of unequal length and unequal masks: averaging means of rows would show.
    uneven = [row("x" * (10 + 7 * i) + "yz", n_masked=1 + i) for i in range(16)]
    save_rows(job.train_folder, uneven)
    short = change(job, dropout=0.0, effective_batch_rows=8, force_epochs=2)
    one_by_one = trained(change(short, micro_batch_rows=1))
    at_once = trained(change(short, micro_batch_rows=8))
    assert losses(one_by_one) == pytest.approx(losses(at_once), rel=1e-4)
    assert one_by_one["validation_loss_after"] == pytest.approx(
        at_once["validation_loss_after"], rel=1e-4
    )


def test_two_runs_with_one_seed_agree_and_another_seed_differs(job: TrainingJob) -> None:
    short = change(job, max_steps=6)
    assert trace(trained(short)) == trace(trained(short))
    assert losses(trained(short)) != losses(trained(change(short, seed=7)))


def test_every_row_is_seen_once_an_epoch_in_an_order_of_its_own(job: TrainingJob) -> None:
    # Thirteen rows in steps of four: the last step of each epoch has one row.
    save_rows(job.train_folder, [row(TEXT[i:]) for i in range(13)])
    metrics = trained(change(job, force_epochs=2))
    tokens = [entry["tokens"] for entry in metrics["train_history"]]
    one_epoch = sum(len(TEXT) - i for i in range(13))
    assert [sum(tokens[:4]), sum(tokens[4:])] == [one_epoch, one_epoch]
    assert metrics["epoch_ends"] == [4, 8]
    assert tokens[:4] != tokens[4:]


def test_the_base_is_bit_identical_after_training(job: TrainingJob, base: Path) -> None:
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    train(change(job, max_steps=3))
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before


def test_rows_without_a_target_are_left_out_and_counted(job: TrainingJob) -> None:
    save_rows(job.train_folder, [row("all masked", n_masked=99), row("something to learn")])
    rows = RowTable(ParquetTable(job.train_folder))
    assert (len(rows), rows.rows_without_target) == (1, 1)
    assert trained(job)["rows_without_target"] == 1


def test_max_rows_takes_rows_spaced_over_the_table(job: TrainingJob) -> None:
    rows = RowTable(ParquetTable(job.train_folder), max_rows=4)
    lengths = [len(rows[i]["input_ids"]) for i in range(len(rows))]
    assert lengths == [70, 65, 60, 55]


def test_nothing_to_learn_is_a_plain_error(job: TrainingJob) -> None:
    save_rows(job.train_folder, [])
    with pytest.raises(TooLittleDataError, match="no training row"):
        train(job)


def test_a_loss_that_is_not_a_number_stops_the_run_with_advice(job: TrainingJob) -> None:
    with pytest.raises(TrainingError, match="Lower the learning rate"):
        train(change(job, learning_rate=1e30, max_grad_norm=1e30))


def test_training_ends_once_patience_runs_out_and_keeps_the_best(job: TrainingJob) -> None:
    # Validation text that has nothing to do with training gets worse after the first steps.
    save_rows(job.validation_folder, [row("0123456789 =+* zyxwv %&!? 9876543210")])
    patient = change(job, early_stopping_patience=2, force_epochs=30, learning_rate=2e-2)
    metrics = trained(patient)
    history = metrics["validation_history"][1:]
    best = min(history, key=lambda entry: entry["loss"])
    assert metrics["stopped_early"]
    assert metrics["steps_done"] < 120
    assert [entry["step"] for entry in history if entry["step"] > best["step"]] == [
        best["step"] + 2,
        best["step"] + 4,
    ]
    assert (metrics["best_step"], metrics["validation_loss_after"]) == (best["step"], best["loss"])

    folder = train(patient).adapter_folder
    model = load_with_adapter(job.profile, folder)
    disable_inference_repacking(model)
    ids = torch.tensor(RowTable(ParquetTable(job.validation_folder))[0]["input_ids"])[None].long()
    with torch.no_grad():
        assert float(model(ids, labels=ids).loss) == pytest.approx(best["loss"], abs=1e-4)


def test_targets_of_another_architecture_fail_with_what_exists(job: TrainingJob) -> None:
    lora = LoraSettings(r=4, alpha=8, target_modules=("q_proj", "c_fc", "c_proj"))
    wrong = change(job).model_copy(
        update={"profile": job.profile.model_copy(update={"lora": lora})}
    )
    with pytest.raises(AdapterTargetError, match=r"c_fc.*c_proj.*down_proj.*up_proj"):
        train(wrong)


def test_another_architecture_trains_with_targets_of_its_own(
    job: TrainingJob, tmp_path: Path
) -> None:
    folder = tmp_path / "starcoder"
    torch.manual_seed(0)
    Starcoder2ForCausalLM(
        Starcoder2Config(
            vocab_size=len(byte_tokenizer()), hidden_size=64, intermediate_size=128,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            initializer_range=0.2, bos_token_id=0, eos_token_id=0,
        )
    ).save_pretrained(folder)  # fmt: skip
    byte_tokenizer().save_pretrained(folder)
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj")
    lora = LoraSettings(r=4, alpha=8, target_modules=targets)
    profile = job.profile.model_copy(
        update={"name": "tiny-code", "folder": str(folder), "lora": lora}
    )
    outcome = train(job.model_copy(update={"profile": profile}))
    metrics = outcome.metrics
    assert metrics["validation_loss_after"] < 0.9 * metrics["validation_loss_before"]
    saved = load_file(outcome.adapter_folder / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in saved} == set(targets)


def test_all_linear_trains_every_layer_but_the_head(job: TrainingJob) -> None:
    lora = LoraSettings(r=4, alpha=8, target_modules="all-linear")
    every = change(job, max_steps=2).model_copy(
        update={"profile": job.profile.model_copy(update={"lora": lora})}
    )
    saved = load_file(train(every).adapter_folder / "adapter_model.safetensors")
    layers = {name.split(".")[-3] for name in saved}
    assert layers == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


def test_stages_are_gone_through_one_after_the_other(job: TrainingJob) -> None:
    short = [row("short " + "a" * i, stage=1) for i in range(4)]
    longer = [row("longer rows come later " + "b" * (10 * i), stage=2) for i in range(6)]
    save_rows(job.train_folder, longer + short)
    staged = change(job, force_epochs=2)
    metrics = trained(staged)
    # One step an epoch for the first stage, two for the second.
    assert metrics["curriculum_stage_ends"] == {"1": 2, "2": 6}
    assert metrics["epoch_plan"]["steps"] == 6
    tokens = [entry["tokens"] for entry in metrics["train_history"]]
    of_stage_1, of_stage_2 = (sum(r["n_tokens"] for r in rows) for rows in (short, longer))
    assert tokens[:2] == [of_stage_1, of_stage_1]
    assert [sum(tokens[2:4]), sum(tokens[4:])] == [of_stage_2, of_stage_2]
    rates = [entry["learning_rate"] for entry in metrics["train_history"]]
    assert rates == sorted(rates, reverse=True), "one schedule over all stages"


def test_stages_have_epochs_of_their_own(job: TrainingJob) -> None:
    save_rows(job.train_folder, [row(TEXT[i:], stage=1 + i // 8) for i in range(16)])
    staged = change(job, force_epochs=None, stage_epochs={1: 3, 2: 1})
    metrics = trained(staged)
    # Two steps an epoch in each stage.
    assert metrics["curriculum_stage_ends"] == {"1": 6, "2": 8}
    assert metrics["epoch_plan"]["steps"] == metrics["steps_done"] == 8
    assert "curriculum" in metrics["epoch_plan"]["reason"]


def test_versions_stand_side_by_side_and_the_newest_is_loaded(
    job: TrainingJob, tmp_path: Path
) -> None:
    adapters = AdapterDataset(filepath=str(tmp_path / "adapters"))
    assert not adapters.exists()
    with pytest.raises(DatasetError, match="no trained adapter.*qlora_train") as caught:
        adapters.load()
    assert isinstance(caught.value.__cause__, AdapterError), "the command line looks for it there"
    short = change(job, max_steps=1)
    adapters.save(train(short).adapter_folder)
    first = adapters.load().path
    adapters.save(train(short).adapter_folder)
    assert adapters.load().path > first
    assert first.is_dir()
    chosen = AdapterDataset(filepath=str(tmp_path / "adapters"), version=first.name)
    assert chosen.load().path == first


def test_a_finished_adapter_that_was_not_put_in_place_is_not_trained_again(
    job: TrainingJob,
) -> None:
    short = change(job, max_steps=2)
    first = train(short)
    again = train(short)
    assert again == first
    shutil.rmtree(first.adapter_folder)
    assert train(short).metrics["seconds"] != 0


def test_two_profiles_keep_apart(base: Path, tmp_path: Path) -> None:
    advisor = make_job(base, tmp_path, max_steps=2)
    completion = advisor.model_copy(
        update={"profile": advisor.profile.model_copy(update={"name": "tiny-code"})}
    )
    folders = [train(one).adapter_folder.parent.name for one in (advisor, completion)]
    assert folders == ["tiny", "tiny-code"]
