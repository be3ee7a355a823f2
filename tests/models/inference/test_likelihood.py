import pytest
import torch
from tests.builders.likelihoods import continuation_nats
from tests.builders.tiny_llama import tiny_llama
from torch.nn import functional
from transformers import LlamaForCausalLM

from the_block_llm.models.collate import collate_rows
from the_block_llm.models.inference.likelihood import (
    PrefixedContinuations,
    cache_bytes_per_token,
    score_continuations,
    token_nll,
)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_llama().eval()


def packed(segments: list[list[int]], masked: int = 0) -> dict:
    ids = [token for segment in segments for token in segment]
    return {
        "input_ids": ids,
        "labels_mask": [position >= masked for position in range(len(ids))],
        "segment_lengths": [len(segment) for segment in segments],
    }


def plain_loop(model: LlamaForCausalLM, segment: list[int]) -> list[float]:
    """One forward pass for each token, of nothing but what stands before it."""
    nll = [0.0]
    for end in range(1, len(segment)):
        with torch.no_grad():
            logits = model(torch.tensor([segment[:end]])).logits[0, -1]
        nll.append(-functional.log_softmax(logits, dim=-1)[segment[end]].item())
    return nll


def test_packed_rows_of_different_length_agree_with_a_plain_loop(model):
    first = [[5, 9, 33, 2], [7, 7, 61]]
    second = [[80, 3]]
    nll = token_nll(model, collate_rows([packed(first), packed(second)], pad_token_id=0))
    expected_first = plain_loop(model, first[0]) + plain_loop(model, first[1])
    torch.testing.assert_close(nll[0], torch.tensor(expected_first), rtol=1e-4, atol=1e-5)
    expected_second = [*plain_loop(model, second[0]), 0, 0, 0, 0, 0]
    torch.testing.assert_close(nll[1], torch.tensor(expected_second), rtol=1e-4, atol=1e-5)


def test_masked_tokens_cost_nothing_but_are_read(model):
    segment = [5, 9, 33, 2, 8]
    nll = token_nll(model, collate_rows([packed([segment], masked=3)], pad_token_id=0))[0]
    assert nll[:3].tolist() == [0, 0, 0]
    torch.testing.assert_close(nll[3:], torch.tensor(plain_loop(model, segment)[3:]))


def test_more_targets_than_one_slice_of_the_head(model, monkeypatch):
    segment = list(range(1, 40))
    batch = collate_rows([packed([segment])], pad_token_id=0)
    whole = token_nll(model, batch)
    monkeypatch.setattr("the_block_llm.models.inference.likelihood._HEAD_CHUNK_TOKENS", 7)
    torch.testing.assert_close(token_nll(model, batch), whole)


def test_a_row_without_targets_is_zero(model):
    nll = token_nll(model, collate_rows([packed([[4, 5, 6]], masked=3)], pad_token_id=0))
    assert nll.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    "continuations", [[[3]], [[3], [80, 7, 7]], [[9, 9], [1, 2, 3, 4], [5]]], ids=len
)
def test_continuations_of_one_prefix_agree_with_a_plain_loop(model, continuations):
    prefix = [5, 9, 33, 2]
    expected = [sum(plain_loop(model, prefix + c)[len(prefix) :]) for c in continuations]
    assert continuation_nats(model, prefix, continuations) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("tokens_a_pass", [1, 30, 2048])
def test_many_prefixes_together_agree_with_a_plain_loop(model, monkeypatch, tokens_a_pass):
    monkeypatch.setattr(
        "the_block_llm.models.inference.likelihood._CPU_BATCH_TOKENS", tokens_a_pass
    )
    texts = [
        PrefixedContinuations([5, 9, 33, 2], [[3, 4], [80, 7, 7]]),
        PrefixedContinuations([8], [[9]]),
        PrefixedContinuations([5, 9, 33, 2, 61, 60], [[1, 2, 3, 4], [5], [6, 6]]),
        PrefixedContinuations([11, 12], [[13, 14, 15]]),
    ]
    found = {}
    score_continuations(model, texts, cache_gib=1.0, on_scored=found.__setitem__)
    for at, (prefix, continuations) in enumerate(texts):
        expected = [sum(plain_loop(model, prefix + c)[len(prefix) :]) for c in continuations]
        assert found[at] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("cache_tokens", "passes"), [(1, 4), (12, 2), (24, 1)])
def test_memory_for_keys_and_values_bounds_what_goes_together(
    model, monkeypatch, cache_tokens, passes
):
    texts = [
        PrefixedContinuations([5, 9], [[3, 4]]),
        PrefixedContinuations([8, 1], [[9, 9], [1, 1]]),
    ] * 2
    read = []
    decoder = model.get_decoder()
    monkeypatch.setattr(model, "get_decoder", lambda: read.append(1) or decoder)
    gib = cache_tokens * cache_bytes_per_token(model) / 2**30
    score_continuations(model, texts, cache_gib=gib, on_scored=lambda *_: None)
    assert len(read) == 2 * passes  # prefixes, then continuations
