"""Runs over rows with tokens that the model does not have."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.pipelines.qlora_train.jobs import (
    MARKS,
    loaded_with_loss,
    losses,
    marked_job,
    marked_row,
    trained,
)
from tests.pipelines.qlora_train.killing import kill_at
from transformers import AutoModelForCausalLM, AutoTokenizer

from the_block_llm.models.adapter.adapters import load_with_adapter
from the_block_llm.models.adapter.added_embedding_layers import active_added_embeddings
from the_block_llm.models.adapter.manifest import open_adapter
from the_block_llm.models.base.sources import load_tokenizer
from the_block_llm.pipelines.export.exporting import export_adapter
from the_block_llm.pipelines.export.params import ExportParams
from the_block_llm.pipelines.qlora_train.job import TrainingJob, training_job
from the_block_llm.pipelines.qlora_train.loop.run import TrainingOutcome, train
from the_block_llm.pipelines.qlora_train.params import QloraTrainParams
from the_block_llm.pipelines.qlora_train.preflight.preflight import preflight


@pytest.fixture(scope="module")
def marked(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingOutcome:
    return train(marked_job(base, tmp_path_factory.mktemp("marked")))


def test_the_facts_of_the_rows_reach_the_job_and_its_preflight(
    job: TrainingJob, base: Path, tmp_path: Path
) -> None:
    made = training_job(
        job.profile, QloraTrainParams(work_folder="x"), job.train_folder,
        job.validation_folder, None, {"added_tokens": MARKS},
    )  # fmt: skip
    assert made.added_tokens == MARKS
    without = preflight(job, with_speed=False)["trained_parameters"]
    report = preflight(marked_job(base, tmp_path), with_speed=False)
    # Three rows of 64 numbers; the head is tied to the embedding.
    assert report["trained_parameters"] == without + 3 * 64


def test_the_adapter_holds_the_trained_rows_and_says_whose_they_are(
    marked: TrainingOutcome,
) -> None:
    folder = marked.adapter_folder
    weights = load_file(folder / "adapter_model.safetensors")
    [rows] = [tensor for name, tensor in weights.items() if "embed" in name]
    assert rows.shape == (3, 64)
    assert open_adapter(folder).added_tokens == MARKS
    assert marked.metrics["validation_loss_after"] < marked.metrics["validation_loss_before"]


def test_a_saved_adapter_gives_the_loss_that_was_measured_and_its_rows_have_moved(
    marked: TrainingOutcome, job: TrainingJob
) -> None:
    model, loss = loaded_with_loss(marked, job, marked_row(3))
    assert loss == pytest.approx(marked.metrics["validation_loss_after"], abs=1e-4)
    rows = active_added_embeddings(model)
    assert rows is not None
    tokenizer = load_tokenizer(job.profile)
    embedding = model.get_base_model().get_input_embeddings().weight
    for number, words in enumerate(["code start", "analysis", "question"]):
        start = embedding[tokenizer(words, add_special_tokens=False)["input_ids"]].mean(dim=0)
        assert (rows.embedding[number] - start).norm() > 1e-2, words


def test_the_matrices_are_bit_identical(
    marked: TrainingOutcome, job: TrainingJob, base: Path
) -> None:
    model = load_with_adapter(job.profile, marked.adapter_folder, torch.device("cpu"))
    frozen = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    inner = model.get_base_model()
    assert torch.equal(inner.get_input_embeddings().weight, frozen)
    assert torch.equal(inner.get_output_embeddings().weight, frozen)


def test_eight_times_one_and_one_times_eight_are_the_same_run(base: Path, tmp_path: Path) -> None:
    runs = [
        trained(
            marked_job(
                base, tmp_path / f"{rows}", dropout=0.0, effective_batch_rows=8,
                micro_batch_rows=rows,
            )
        )
        for rows in (1, 8)
    ]  # fmt: skip
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=1e-5)


def test_a_run_resumes_with_its_rows(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(marked_job(base, tmp_path / "whole"))
    cut = marked_job(base, tmp_path / "cut")

    kill_at(monkeypatch, 3, cut)
    resumed = trained(cut)
    assert resumed["resumed_from"] == "checkpoint-2"
    assert losses(resumed) == losses(whole)


def test_export_writes_them_into_the_matrices(
    marked: TrainingOutcome, job: TrainingJob, tmp_path: Path
) -> None:
    params = ExportParams(
        folder=tmp_path, shard_mib=1, probes=1, answer_tokens=4, max_nll_difference=0.1,
        min_token_agreement=0.7,
    )  # fmt: skip
    probes = [{"prompt": "Why?", "context": ""}]
    report = export_adapter(open_adapter(marked.adapter_folder), job.profile, probes, params)
    model = AutoModelForCausalLM.from_pretrained(report["folder"], dtype=torch.float32).eval()
    assert model.config.vocab_size == 263
    assert AutoTokenizer.from_pretrained(report["folder"]).convert_ids_to_tokens(261) == (
        "<|analysis|>"
    )
    ours = load_with_adapter(job.profile, marked.adapter_folder, torch.device("cpu"))
    ids = torch.tensor([marked_row(2)["input_ids"]])
    with torch.no_grad():
        expected = ours.get_base_model()(input_ids=ids).logits.log_softmax(-1)
        found = model(input_ids=ids).logits.log_softmax(-1)
    assert (found - expected).abs().mean() < 0.05
