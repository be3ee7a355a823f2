"""Samples after each epoch, on a model that learns to answer a question."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.builders.tiny_llama import byte_tokenizer
from tests.pipelines.qlora_train.jobs import make_job, replace_fields, save_rows

from the_block_llm.models.adapter.adapters import load_model_with_adapter
from the_block_llm.models.base.quantized_loading import load_base_model
from the_block_llm.models.inference.generation import Completion, SamplingParams, generate
from the_block_llm.models.profiles import LoraSettings
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.loop.train_run import train

QUESTION, ANSWER = "is it final", "yes it is"


def chat_row(tokenizer: Any, question: str, answer: str) -> dict[str, Any]:
    """Return a chat row whose targets are the answer and its end-of-turn token."""
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(f"{prompt}{answer}<|im_end|>")["input_ids"]
    n_prompt = len(tokenizer(prompt)["input_ids"])
    return {
        "input_ids": ids,
        "labels_mask": [position >= n_prompt for position in range(len(ids))],
        "segment_lengths": [len(ids)],
        "document_ids": ["chat"],
        "n_tokens": len(ids),
        "stage": 0,
    }


@pytest.fixture
def chat_job(base: Path, tmp_path: Path) -> TrainingJob:
    tokenizer = byte_tokenizer()
    job = make_job(
        base, tmp_path, dropout=0.0, force_epochs=10, learning_rate=3e-2, eval_steps=5,
        probe_questions=(QUESTION,), probe_new_tokens=24,
    )  # fmt: skip
    rows = [chat_row(tokenizer, QUESTION, ANSWER)] * 16
    save_rows(job.train_folder, rows)
    save_rows(job.validation_folder, rows[:1])
    lora = LoraSettings(r=16, alpha=32, dropout=0.0, target_modules="all-linear")
    return job.model_copy(update={"profile": job.profile.model_copy(update={"lora": lora})})


def answer(model: Any, tokenizer: Any) -> Completion:
    messages = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    answers: dict[int, Completion] = {}
    generate(
        model, tokenizer, [prompt], SamplingParams(max_new_tokens=24),
        batch_rows=1, cache_gib=0.1, on_completion=answers.__setitem__,
    )  # fmt: skip
    return answers[0]


def test_model_learns_to_end_its_answer_and_samples_show_it(
    chat_job: TrainingJob,
) -> None:
    tokenizer = byte_tokenizer()
    untrained = answer(load_base_model(chat_job.profile).eval(), tokenizer)
    assert untrained.finish == "length"
    outcome = train(chat_job)
    tuned = answer(load_model_with_adapter(chat_job.profile, outcome.adapter_folder), tokenizer)
    assert (tuned.text, tuned.finish) == (ANSWER, "stop")

    # The samples show the same: before training, and after every epoch of four steps.
    report = outcome.answers
    assert report["questions"] == [QUESTION]
    assert [(a["epoch"], a["step"]) for a in report["answers"]] == [
        (epoch, 4 * epoch) for epoch in range(11)
    ]
    assert report["answers"][0]["answers"][0]["finish"] == "length"
    assert report["answers"][-1]["answers"] == [{"text": ANSWER, "finish": "stop"}]


def test_sampling_does_not_change_the_trained_weights(chat_job: TrainingJob, base: Path) -> None:
    short = replace_fields(chat_job, force_epochs=2, dropout=0.05)
    adapters = [
        load_file(train(one).adapter_folder / "adapter_model.safetensors")
        for one in (
            short,
            replace_fields(short, probe_questions=(), work_folder=short.work_folder / "other"),
        )
    ]
    assert adapters[0].keys() == adapters[1].keys()
    assert all(torch.equal(tensor, adapters[1][name]) for name, tensor in adapters[0].items())
