"""The layerwise engine against transformers and peft: one loss, one set of gradients."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.builders.tiny_llama import byte_tokenizer
from tests.models.layerwise.small_models import (
    CPU,
    MARKS,
    WHOLE,
    assert_same,
    load,
    random_rows,
    save_profiles,
    step,
)

from the_block_llm.models.base.special_tokens import add_tokens
from the_block_llm.models.factory import TrainableModel
from the_block_llm.models.inference.generation import Completion, SamplingParams, generate
from the_block_llm.models.layerwise import chunked_loss
from the_block_llm.models.layerwise.engine import EngineSettings
from the_block_llm.models.layerwise.offload.activation_offload import ActivationStore

# Each switch of a plan alone, and all of them together.
SWITCHES = {
    "everything resident": WHOLE,
    "heads in groups": replace(WHOLE, head_groups=2),
    "MLP in tiles": replace(WHOLE, mlp_tokens=7),
    "loss in chunks": replace(WHOLE, loss_positions=3),
    "output matrix in tiles": replace(WHOLE, head_resident=False),
    "layers streamed": replace(WHOLE, n_resident=0),
    "half of the layers streamed": replace(WHOLE, n_resident=1),
    "states in host memory": replace(WHOLE, activations="host"),
    "states on disk": replace(WHOLE, activations="disk"),
    "weights unpacked once": replace(WHOLE, keep_unpacked=True),
    "states fetched when needed": replace(WHOLE, activations="host", prefetch_states=False),
    "all together": EngineSettings(
        n_layers=2,
        n_resident=1,
        head_resident=False,
        activations="disk",
        mlp_tokens=16,
        head_groups=2,
        loss_positions=5,
        prefetch_states=False,
    ),
}
ARCHITECTURES = ["tied", "untied", "every linear", "starcoder2"]


@pytest.fixture(scope="module", autouse=True)
def small_tiles() -> Any:
    """Output matrices of 260 rows in tiles of 100: a border, and a short last one."""
    patch = pytest.MonkeyPatch()
    patch.setattr(chunked_loss, "TILE_ROWS", 100)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Loads a small model once for each way to compute it."""
    profiles = save_profiles(tmp_path_factory.mktemp("models"))

    @cache
    def get(name: str, how: str | None = None, marked: bool = False) -> TrainableModel:
        chosen = None if how is None else SWITCHES[how]
        return load(profiles[name], chosen, MARKS if marked else None)

    return get


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("how", SWITCHES)
def test_loss_and_gradients_are_those_of_transformers_and_peft(
    models: Any, name: str, how: str
) -> None:
    rows = random_rows([[20, 13], [9, 1, 25]], seed=5)
    assert_same(models(name, how), models(name), rows)


@pytest.mark.parametrize("name", ["tied", "untied", "spare rows", "starcoder2"])
@pytest.mark.parametrize("how", ["everything resident", "output matrix in tiles", "all together"])
def test_rows_of_added_tokens_are_trained_alike(models: Any, name: str, how: str) -> None:
    rows = random_rows([[20, 13], [9, 1, 25]], seed=6, first_id=240, n_ids=263)
    assert any(token >= 260 for row in rows for token in row["input_ids"])
    assert_same(models(name, how, marked=True), models(name, marked=True), rows)
    # A micro-batch may have none of them.
    assert_same(
        models(name, how, marked=True), models(name, marked=True), random_rows([[30]], seed=7)
    )


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3), min_size=1, max_size=3),
    learned=st.sampled_from([0.0, 0.1, 1.0]),
    name=st.sampled_from(["untied", "starcoder2"]),
    seed=st.integers(0, 99),
)
@example([[9]], 0.1, "untied", 54)  # only the token after the first is learned
def test_whatever_the_lengths_and_the_masks(
    models: Any, lengths: list[list[int]], learned: float, name: str, seed: int
) -> None:
    rows = random_rows(lengths, seed, learned)
    assert_same(models(name, "all together"), models(name), rows)


@pytest.mark.parametrize(
    ("lengths", "learned"),
    [
        ([[1]], 1.0),  # one token: nothing to predict
        ([[2]], 1.0),
        ([[33]], 0.0),  # all masked
        ([[16], [16]], 1.0),  # tiles of the MLP end where rows do
        ([[32]], 1.0),
        ([[17, 15]], 1.0),
        ([[6]], 1.0),  # one chunk of the loss, exactly
        ([[1, 1, 1, 1]], 1.0),
    ],
)
def test_borders(models: Any, lengths: list[list[int]], learned: float) -> None:
    rows = random_rows(lengths, 3, learned)
    assert_same(models("tied", "all together"), models("tied"), rows)


def test_no_segment_sees_another(models: Any) -> None:
    ours = models("untied", "all together")
    [row] = random_rows([[14, 21]], seed=8, learned=1.0)
    other = {**row, "input_ids": [9] * 14 + row["input_ids"][14:]}
    for one in (row, other):
        # Only the second segment counts.
        one["labels_mask"] = [False] * 14 + [True] * 21
    loss, gradients = step(ours, [row])
    gradients = {name: gradient.clone() for name, gradient in gradients.items()}
    loss_then, gradients_then = step(ours, [other])
    assert loss == loss_then
    for name, gradient in gradients.items():
        assert torch.equal(gradient, gradients_then[name]), name


@pytest.mark.parametrize("how", ["everything resident", "all together"])
@pytest.mark.parametrize("name", ["tied", "untied"])
def test_probe_questions_get_the_answers_of_plain_generation(
    models: Any, name: str, how: str
) -> None:
    ours, plain = models(name, how, marked=True), models(name, marked=True)
    tokenizer = byte_tokenizer()
    add_tokens(tokenizer, MARKS)
    prompts = [[262, 40, 41, 260, 42], [43, 44]]
    answers: dict[int, Completion] = {}
    was_training = plain.model.training
    generate(
        plain.model.eval(), tokenizer, prompts, SamplingParams(max_new_tokens=6), batch_rows=1,
        cache_gib=0.1, on_completion=answers.__setitem__,
    )  # fmt: skip
    plain.model.train(was_training)
    # The small models never stop by themselves; the engine's answers are not stripped.
    found = [
        replace(answer, text=answer.text.strip())
        for answer in ours.generate_greedy(tokenizer, prompts, 6)
    ]
    assert found == [answers[0], answers[1]]


def test_states_in_pageable_memory_come_back_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pinned memory is short, as in WSL."""
    whole_empty = torch.empty

    def none_pinned(*size: Any, **options: Any) -> torch.Tensor:
        if options.get("pin_memory"):
            raise RuntimeError("CUDA error: out of memory")
        return whole_empty(*size, **options)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", none_pinned)
    store = ActivationStore("host", CPU)
    states = [torch.randn(5, 3), torch.randn(7, 3)]
    for index, state in enumerate(states):
        store.put(index, state)
    kept = [state.clone() for state in states]
    states[1].zero_()
    store.prefetch(1)
    assert torch.equal(store.fetch(1, private=True), kept[1])
    store.drop(1)
    assert torch.equal(store.fetch(0, private=False), kept[0])


def test_a_longer_micro_batch_finds_room_on_disk(tmp_path: Any) -> None:
    store = ActivationStore("disk", CPU, tmp_path)
    for n_tokens in (3, 9, 4):
        state = torch.randn(n_tokens, 5)
        store.put(0, state)
        assert torch.equal(store.fetch(0, private=True), state)
        store.drop(0)
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".state"]
