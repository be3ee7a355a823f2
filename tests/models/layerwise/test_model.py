"""Loss and gradients of the layerwise engine against those of transformers and peft."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.builders.tiny_llama import byte_tokenizer
from tests.models.layerwise.small_models import (
    ADDED_TOKENS,
    CPU,
    FULL_MEMORY,
    assert_equal_loss_and_grads,
    load_model,
    loss_and_grads,
    random_rows,
    save_profiles,
)

from the_block_llm.models.base.special_tokens import add_tokens
from the_block_llm.models.factory import TrainableModel
from the_block_llm.models.inference.generation import Completion, SamplingParams, generate
from the_block_llm.models.layerwise import lm_head
from the_block_llm.models.layerwise.engine import EngineSettings
from the_block_llm.models.layerwise.offload.activation_offload import ActivationStore

# Each setting of a plan alone, and all of them together.
SETTINGS = {
    "everything resident": FULL_MEMORY,
    "heads in groups": replace(FULL_MEMORY, head_groups=2),
    "MLP in tiles": replace(FULL_MEMORY, mlp_tile_tokens=7),
    "loss in chunks": replace(FULL_MEMORY, loss_chunk_tokens=3),
    "output matrix in tiles": replace(FULL_MEMORY, is_head_resident=False),
    "layers streamed": replace(FULL_MEMORY, n_resident_layers=0),
    "half of the layers streamed": replace(FULL_MEMORY, n_resident_layers=1),
    "states in host memory": replace(FULL_MEMORY, activations="host"),
    "states on disk": replace(FULL_MEMORY, activations="disk"),
    "weights dequantized once": replace(FULL_MEMORY, keep_dequantized=True),
    "states not prefetched": replace(FULL_MEMORY, activations="host", prefetch_activations=False),
    "all together": EngineSettings(
        n_layers=2,
        n_resident_layers=1,
        is_head_resident=False,
        activations="disk",
        mlp_tile_tokens=16,
        head_groups=2,
        loss_chunk_tokens=5,
        prefetch_activations=False,
    ),
}
ARCHITECTURES = ["tied", "untied", "every linear", "starcoder2"]


@pytest.fixture(scope="module", autouse=True)
def small_tiles() -> Any:
    """Split output matrices of 260 rows into tiles of 100, so that the last one is shorter."""
    patch = pytest.MonkeyPatch()
    patch.setattr(lm_head, "VOCAB_TILE_ROWS", 100)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that loads each small model once per setting."""
    profiles = save_profiles(tmp_path_factory.mktemp("models"))

    @cache
    def get(
        name: str, setting: str | None = None, with_added_tokens: bool = False
    ) -> TrainableModel:
        engine_settings = None if setting is None else SETTINGS[setting]
        added_tokens = ADDED_TOKENS if with_added_tokens else None
        return load_model(profiles[name], engine_settings, added_tokens)

    return get


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_loss_and_gradients_match_transformers_and_peft(
    models: Any, name: str, setting: str
) -> None:
    rows = random_rows([[20, 13], [9, 1, 25]], seed=5)
    assert_equal_loss_and_grads(models(name, setting), models(name), rows)


@pytest.mark.parametrize("name", ["tied", "untied", "spare rows", "starcoder2"])
@pytest.mark.parametrize(
    "setting", ["everything resident", "output matrix in tiles", "all together"]
)
def test_gradients_of_added_tokens_match(models: Any, name: str, setting: str) -> None:
    rows = random_rows([[20, 13], [9, 1, 25]], seed=6, first_id=240, n_ids=263)
    assert any(token >= 260 for row in rows for token in row["input_ids"])
    assert_equal_loss_and_grads(
        models(name, setting, with_added_tokens=True), models(name, with_added_tokens=True), rows
    )
    # A micro-batch without added tokens.
    assert_equal_loss_and_grads(
        models(name, setting, with_added_tokens=True),
        models(name, with_added_tokens=True),
        random_rows([[30]], seed=7),
    )


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3), min_size=1, max_size=3),
    label_fraction=st.sampled_from([0.0, 0.1, 1.0]),
    name=st.sampled_from(["untied", "starcoder2"]),
    seed=st.integers(0, 99),
)
@example([[9]], 0.1, "untied", 54)  # only the second token has a label
def test_random_lengths_and_masks(
    models: Any, lengths: list[list[int]], label_fraction: float, name: str, seed: int
) -> None:
    rows = random_rows(lengths, seed, label_fraction)
    assert_equal_loss_and_grads(models(name, "all together"), models(name), rows)


@pytest.mark.parametrize(
    ("lengths", "label_fraction"),
    [
        ([[1]], 1.0),  # one token: nothing to predict
        ([[2]], 1.0),
        ([[33]], 0.0),  # all masked
        ([[16], [16]], 1.0),  # MLP tiles end where rows end
        ([[32]], 1.0),
        ([[17, 15]], 1.0),
        ([[6]], 1.0),  # exactly one chunk of the loss
        ([[1, 1, 1, 1]], 1.0),
    ],
)
def test_boundary_lengths(models: Any, lengths: list[list[int]], label_fraction: float) -> None:
    rows = random_rows(lengths, 3, label_fraction)
    assert_equal_loss_and_grads(models("tied", "all together"), models("tied"), rows)


def test_segments_do_not_attend_to_each_other(models: Any) -> None:
    model = models("untied", "all together")
    [row] = random_rows([[14, 21]], seed=8, label_fraction=1.0)
    other = {**row, "input_ids": [9] * 14 + row["input_ids"][14:]}
    for labeled_row in (row, other):
        # Only the second segment has labels.
        labeled_row["labels_mask"] = [False] * 14 + [True] * 21
    loss, gradients = loss_and_grads(model, [row])
    gradients = {name: gradient.clone() for name, gradient in gradients.items()}
    other_loss, other_gradients = loss_and_grads(model, [other])
    assert loss == other_loss
    for name, gradient in gradients.items():
        assert torch.equal(gradient, other_gradients[name]), name


@pytest.mark.parametrize("setting", ["everything resident", "all together"])
@pytest.mark.parametrize("name", ["tied", "untied"])
def test_greedy_answers_match_plain_generation(models: Any, name: str, setting: str) -> None:
    layerwise, plain = (
        models(name, setting, with_added_tokens=True),
        models(name, with_added_tokens=True),
    )
    tokenizer = byte_tokenizer()
    add_tokens(tokenizer, ADDED_TOKENS)
    prompts = [[262, 40, 41, 260, 42], [43, 44]]
    plain_answers: dict[int, Completion] = {}
    was_training = plain.model.training
    generate(
        plain.model.eval(), tokenizer, prompts, SamplingParams(max_new_tokens=6), batch_rows=1,
        cache_gib=0.1, on_completion=plain_answers.__setitem__,
    )  # fmt: skip
    plain.model.train(was_training)
    # The small models generate no stop token; the engine's answers are not stripped.
    layerwise_answers = [
        replace(answer, text=answer.text.strip())
        for answer in layerwise.generate_greedy(tokenizer, prompts, 6)
    ]
    assert layerwise_answers == [plain_answers[0], plain_answers[1]]


def test_states_survive_pageable_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """If memory cannot be pinned, as in WSL."""
    torch_empty = torch.empty

    def fail_to_pin(*size: Any, **options: Any) -> torch.Tensor:
        if options.get("pin_memory"):
            raise RuntimeError("CUDA error: out of memory")
        return torch_empty(*size, **options)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", fail_to_pin)
    store = ActivationStore("host", CPU)
    states = [torch.randn(5, 3), torch.randn(7, 3)]
    for index, state in enumerate(states):
        store.save(index, state)
    expected = [state.clone() for state in states]
    states[1].zero_()
    store.prefetch(1)
    assert torch.equal(store.fetch(1, writable=True), expected[1])
    store.free(1)
    assert torch.equal(store.fetch(0, writable=False), expected[0])


def test_disk_buffers_grow_with_the_micro_batch(tmp_path: Any) -> None:
    store = ActivationStore("disk", CPU, tmp_path)
    for n_tokens in (3, 9, 4):
        state = torch.randn(n_tokens, 5)
        store.save(0, state)
        assert torch.equal(store.fetch(0, writable=True), state)
        store.free(0)
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".state"]
