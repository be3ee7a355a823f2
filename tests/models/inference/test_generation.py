import pytest
import torch
from tests.builders.tiny_adapter import with_noise_adapter
from tests.builders.tiny_llama import byte_tokenizer, tiny_llama

from the_block_llm.models.inference.generation import (
    Completion,
    SamplingParams,
    _GumbelSampler,
    batch_by_length,
    generate,
    stop_token_ids,
)

TEXTS = ["fn main", "x", "class Ledger:\n    pass", "why?"]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module")
def model():
    return tiny_llama().eval()


def complete(model, tokenizer, sampling, batch_rows, texts=TEXTS) -> list[Completion]:
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    completions: dict[int, Completion] = {}
    generate(
        model,
        tokenizer,
        prompts,
        sampling,
        batch_rows=batch_rows,
        cache_gib=0.1,
        on_completion=completions.__setitem__,
    )
    return [completions[index] for index in range(len(texts))]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_completion_does_not_depend_on_its_batch(model, tokenizer, temperature):
    sampling = SamplingParams(max_new_tokens=12, temperature=temperature, top_p=0.9, seed=3)
    alone = complete(model, tokenizer, sampling, batch_rows=1)
    assert complete(model, tokenizer, sampling, batch_rows=4) == alone
    reversed_order = complete(model, tokenizer, sampling, batch_rows=3, texts=TEXTS[::-1])
    assert reversed_order[::-1] == alone


def test_greedy_decoding_matches_a_reference_loop(model, tokenizer):
    ids = tokenizer(TEXTS[0])["input_ids"]
    new_ids = []
    for _ in range(10):
        with torch.no_grad():
            new_ids.append(model(torch.tensor([ids + new_ids])).logits[0, -1].argmax().item())
    [answer] = complete(model, tokenizer, SamplingParams(max_new_tokens=10), 4, TEXTS[:1])
    assert answer.text == tokenizer.decode(new_ids, skip_special_tokens=True).strip()
    assert answer.finish == "length"
    assert answer.n_tokens == 10


def test_samples_depend_on_the_seed_and_a_small_nucleus_is_greedy(model, tokenizer):
    samples = [
        complete(model, tokenizer, SamplingParams(12, 1.0, seed=seed), 4) for seed in range(3)
    ]
    assert samples[0] != samples[1] != samples[2]
    greedy = complete(model, tokenizer, SamplingParams(12), 4)
    assert complete(model, tokenizer, SamplingParams(12, 1.0, top_p=1e-6, seed=1), 4) == greedy


def test_samples_follow_the_distribution_of_the_model(model, tokenizer):
    logits = torch.full((2000, 4), 0.0) + torch.tensor([2.0, 1.0, 0.0, -1.0])
    sampler = _GumbelSampler([[row] for row in range(2000)], seed=0)
    sampled = sampler(torch.zeros(2000, 1), logits).argmax(dim=-1)
    frequencies = torch.bincount(sampled, minlength=4) / 2000
    torch.testing.assert_close(frequencies, logits[0].softmax(-1), atol=0.03, rtol=0)


def test_completion_ends_at_the_first_stop_token(model, tokenizer, monkeypatch):
    with torch.no_grad():
        stop = model(torch.tensor([tokenizer(TEXTS[0])["input_ids"]])).logits[0, -1].argmax()
    monkeypatch.setattr(model.generation_config, "eos_token_id", [stop.item()])
    [completion] = complete(model, tokenizer, SamplingParams(max_new_tokens=10), 1, TEXTS[:1])
    assert completion == Completion(text="", n_tokens=0, finish="stop")


def test_stop_tokens_of_model_and_tokenizer_are_combined(model, tokenizer, monkeypatch):
    monkeypatch.setattr(model.generation_config, "eos_token_id", [7, 9])
    assert stop_token_ids(model, tokenizer) == sorted([7, 9, tokenizer.eos_token_id])


def test_sampling_defaults_of_the_model_are_ignored(model, tokenizer, monkeypatch):
    greedy = complete(model, tokenizer, SamplingParams(max_new_tokens=12), 4)
    monkeypatch.setattr(model.generation_config, "do_sample", True)
    monkeypatch.setattr(model.generation_config, "temperature", 5.0)
    monkeypatch.setattr(model.generation_config, "repetition_penalty", 3.0)
    assert complete(model, tokenizer, SamplingParams(max_new_tokens=12), 4) == greedy


def test_adapter_changes_completions_and_can_be_disabled(tokenizer):
    model = tiny_llama().eval()
    base = complete(model, tokenizer, SamplingParams(max_new_tokens=12), 4)
    adapted = with_noise_adapter(model, scale=0.5)
    assert complete(adapted, tokenizer, SamplingParams(max_new_tokens=12), 4) != base
    with adapted.disable_adapter():
        assert complete(adapted, tokenizer, SamplingParams(max_new_tokens=12), 4) == base


@pytest.mark.parametrize(
    ("lengths", "rows", "tokens", "batches"),
    [
        ([], 4, 100, []),
        ([5, 5, 5], 2, 100, [[0, 1], [2]]),
        ([9, 4, 5, 30], 3, 20, [[1, 2], [0], [3]]),
        ([50, 60], 4, 10, [[0], [1]]),
        ([3, 3, 3, 3], 4, 12, [[0, 1, 2, 3]]),
    ],
)
def test_batches_fit_the_cache_and_have_at_least_one_prompt(lengths, rows, tokens, batches):
    assert batch_by_length(lengths, rows, tokens) == batches
