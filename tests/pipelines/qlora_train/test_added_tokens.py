"""Runs on rows with tokens that are missing from the model's vocabulary."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.builders.damage import damaged
from tests.pipelines.qlora_train.interruption import kill_after_step
from tests.pipelines.qlora_train.jobs import (
    ADDED_TOKENS,
    added_token_job,
    added_token_row,
    load_and_measure_loss,
    losses,
    train_for_metrics,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from the_block_llm.errors import StaleDataError
from the_block_llm.models.adapter.adapters import load_model_with_adapter
from the_block_llm.models.adapter.added_embedding_layers import active_added_embeddings
from the_block_llm.models.adapter.manifest import open_adapter
from the_block_llm.models.base.sources import load_tokenizer
from the_block_llm.pipelines.export.exporting import export_adapter
from the_block_llm.pipelines.export.params import ExportParams
from the_block_llm.pipelines.qlora_train.job import TrainingJob, make_training_job
from the_block_llm.pipelines.qlora_train.loop.train_run import TrainingOutcome, train
from the_block_llm.pipelines.qlora_train.params import QloraTrainParams
from the_block_llm.pipelines.qlora_train.preflight.preflight import run_preflight


@pytest.fixture(scope="module")
def added_token_outcome(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingOutcome:
    return train(added_token_job(base, tmp_path_factory.mktemp("added-tokens")))


def test_added_tokens_of_row_facts_reach_job_and_preflight(
    job: TrainingJob, base: Path, tmp_path: Path
) -> None:
    made = make_training_job(
        job.profile, QloraTrainParams(work_folder="x"), job.train_folder,
        job.validation_folder, None, {"added_tokens": ADDED_TOKENS},
    )  # fmt: skip
    assert made.added_tokens == ADDED_TOKENS
    without = run_preflight(job, with_throughput=False)["trained_parameters"]
    report = run_preflight(added_token_job(base, tmp_path), with_throughput=False)
    # Three embeddings of 64 values; the output head is tied to them.
    assert report["trained_parameters"] == without + 3 * 64


def test_row_facts_of_another_version_are_an_error_with_a_remedy(job: TrainingJob) -> None:
    for stale in damaged({"added_tokens": ADDED_TOKENS, "curriculum": []}):
        with suppress(StaleDataError):
            make_training_job(
                job.profile, QloraTrainParams(work_folder="x"), job.train_folder,
                job.validation_folder, None, stale,
            )  # fmt: skip
    with pytest.raises(StaleDataError, match="The dataset row_facts .*sequence_build"):
        make_training_job(
            job.profile, QloraTrainParams(work_folder="x"), job.train_folder,
            job.validation_folder, None, {"added_tokens": 3},
        )  # fmt: skip


def test_adapter_stores_added_embeddings_and_token_ids(
    added_token_outcome: TrainingOutcome,
) -> None:
    folder = added_token_outcome.adapter_folder
    weights = load_file(folder / "adapter_model.safetensors")
    [rows] = [tensor for name, tensor in weights.items() if "embed" in name]
    assert rows.shape == (3, 64)
    assert open_adapter(folder).added_tokens == ADDED_TOKENS
    assert (
        added_token_outcome.metrics["validation_loss_after"]
        < added_token_outcome.metrics["validation_loss_before"]
    )


def test_saved_adapter_reproduces_the_loss_and_added_embeddings_changed(
    added_token_outcome: TrainingOutcome, job: TrainingJob
) -> None:
    model, loss = load_and_measure_loss(added_token_outcome, job, added_token_row(3))
    assert loss == pytest.approx(added_token_outcome.metrics["validation_loss_after"], abs=1e-4)
    rows = active_added_embeddings(model)
    assert rows is not None
    tokenizer = load_tokenizer(job.profile)
    embedding = model.get_base_model().get_input_embeddings().weight
    for number, words in enumerate(["code start", "analysis", "question"]):
        start = embedding[tokenizer(words, add_special_tokens=False)["input_ids"]].mean(dim=0)
        assert (rows.embedding[number] - start).norm() > 1e-2, words


def test_base_embeddings_are_bit_identical(
    added_token_outcome: TrainingOutcome, job: TrainingJob, base: Path
) -> None:
    model = load_model_with_adapter(
        job.profile, added_token_outcome.adapter_folder, torch.device("cpu")
    )
    frozen = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    inner = model.get_base_model()
    assert torch.equal(inner.get_input_embeddings().weight, frozen)
    assert torch.equal(inner.get_output_embeddings().weight, frozen)


def test_losses_do_not_depend_on_the_micro_batch(base: Path, tmp_path: Path) -> None:
    runs = [
        train_for_metrics(
            added_token_job(
                base, tmp_path / f"{rows}", dropout=0.0, effective_batch_rows=8,
                micro_batch_rows=rows,
            )
        )
        for rows in (1, 8)
    ]  # fmt: skip
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=1e-5)


def test_interrupted_run_with_added_tokens_resumes_with_identical_losses(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted = train_for_metrics(added_token_job(base, tmp_path / "uninterrupted"))
    interrupted_job = added_token_job(base, tmp_path / "interrupted_job")

    kill_after_step(monkeypatch, 3, interrupted_job)
    resumed = train_for_metrics(interrupted_job)
    assert resumed["resumed_from"] == "checkpoint-2"
    assert losses(resumed) == losses(uninterrupted)


def test_export_merges_added_embeddings(
    added_token_outcome: TrainingOutcome, job: TrainingJob, tmp_path: Path
) -> None:
    params = ExportParams(
        folder=tmp_path, shard_mib=1, probes=1, answer_tokens=4, max_nll_difference=0.1,
        min_token_agreement=0.7,
    )  # fmt: skip
    probes = [{"prompt": "Why?", "context": ""}]
    report = export_adapter(
        open_adapter(added_token_outcome.adapter_folder), job.profile, probes, params
    )
    model = AutoModelForCausalLM.from_pretrained(report["folder"], dtype=torch.float32).eval()
    assert model.config.vocab_size == 263
    assert AutoTokenizer.from_pretrained(report["folder"]).convert_ids_to_tokens(261) == (
        "<|analysis|>"
    )
    with_adapter = load_model_with_adapter(
        job.profile, added_token_outcome.adapter_folder, torch.device("cpu")
    )
    ids = torch.tensor([added_token_row(2)["input_ids"]])
    with torch.no_grad():
        expected = with_adapter.get_base_model()(input_ids=ids).logits.log_softmax(-1)
        found = model(input_ids=ids).logits.log_softmax(-1)
    assert (found - expected).abs().mean() < 0.05
