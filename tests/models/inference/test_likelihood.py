import pytest
import torch
from tests.builders.likelihoods import continuation_nll
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


def reference_nll(model: LlamaForCausalLM, segment: list[int]) -> list[float]:
    """Run one forward pass for each token on the tokens before it."""
    nll = [0.0]
    for end in range(1, len(segment)):
        with torch.no_grad():
            logits = model(torch.tensor([segment[:end]])).logits[0, -1]
        nll.append(-functional.log_softmax(logits, dim=-1)[segment[end]].item())
    return nll


def test_nll_of_packed_rows_matches_a_reference_loop(model):
    first = [[5, 9, 33, 2], [7, 7, 61]]
    second = [[80, 3]]
    nll = token_nll(model, collate_rows([packed(first), packed(second)], pad_token_id=0))
    expected_first = reference_nll(model, first[0]) + reference_nll(model, first[1])
    torch.testing.assert_close(nll[0], torch.tensor(expected_first), rtol=1e-4, atol=1e-5)
    expected_second = [*reference_nll(model, second[0]), 0, 0, 0, 0, 0]
    torch.testing.assert_close(nll[1], torch.tensor(expected_second), rtol=1e-4, atol=1e-5)


def test_masked_tokens_have_no_nll_but_are_context(model):
    segment = [5, 9, 33, 2, 8]
    nll = token_nll(model, collate_rows([packed([segment], masked=3)], pad_token_id=0))[0]
    assert nll[:3].tolist() == [0, 0, 0]
    torch.testing.assert_close(nll[3:], torch.tensor(reference_nll(model, segment)[3:]))


def test_nll_does_not_depend_on_the_chunk_size_of_the_head(model, monkeypatch):
    segment = list(range(1, 40))
    batch = collate_rows([packed([segment])], pad_token_id=0)
    expected = token_nll(model, batch)
    monkeypatch.setattr("the_block_llm.models.inference.likelihood._HEAD_CHUNK_TOKENS", 7)
    torch.testing.assert_close(token_nll(model, batch), expected)


def test_nll_of_a_row_without_targets_is_zero(model):
    nll = token_nll(model, collate_rows([packed([[4, 5, 6]], masked=3)], pad_token_id=0))
    assert nll.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    "continuations", [[[3]], [[3], [80, 7, 7]], [[9, 9], [1, 2, 3, 4], [5]]], ids=len
)
def test_continuations_of_one_prefix_match_a_reference_loop(model, continuations):
    prefix = [5, 9, 33, 2]
    expected = [sum(reference_nll(model, prefix + c)[len(prefix) :]) for c in continuations]
    assert continuation_nll(model, prefix, continuations) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 30, 2048])
def test_batched_prefixes_match_a_reference_loop(model, monkeypatch, batch_tokens):
    monkeypatch.setattr("the_block_llm.models.inference.likelihood._CPU_BATCH_TOKENS", batch_tokens)
    texts = [
        PrefixedContinuations([5, 9, 33, 2], [[3, 4], [80, 7, 7]]),
        PrefixedContinuations([8], [[9]]),
        PrefixedContinuations([5, 9, 33, 2, 61, 60], [[1, 2, 3, 4], [5], [6, 6]]),
        PrefixedContinuations([11, 12], [[13, 14, 15]]),
    ]
    scored = {}
    score_continuations(model, texts, cache_gib=1.0, on_scored=scored.__setitem__)
    for index, (prefix, continuations) in enumerate(texts):
        expected = [sum(reference_nll(model, prefix + c)[len(prefix) :]) for c in continuations]
        assert scored[index] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("cache_tokens", "passes"), [(1, 4), (12, 2), (24, 1)])
def test_kv_cache_limit_bounds_the_batches(model, monkeypatch, cache_tokens, passes):
    texts = [
        PrefixedContinuations([5, 9], [[3, 4]]),
        PrefixedContinuations([8, 1], [[9, 9], [1, 1]]),
    ] * 2
    calls = []
    decoder = model.get_decoder()
    monkeypatch.setattr(model, "get_decoder", lambda: calls.append(1) or decoder)
    gib = cache_tokens * cache_bytes_per_token(model) / 2**30
    score_continuations(model, texts, cache_gib=gib, on_scored=lambda *_: None)
    assert len(calls) == 2 * passes  # prefixes, then continuations
