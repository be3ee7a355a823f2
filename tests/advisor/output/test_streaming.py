import itertools
import time

import pytest
from tests.builders.tiny_llama import byte_tokenizer, tiny_llama

from the_block_llm.advisor.output.streaming import stream_text
from the_block_llm.models.inference.generation import SamplingParams, generate

TOKENIZER = byte_tokenizer()
PROMPT = TOKENIZER("fn main() {")["input_ids"]


@pytest.fixture(scope="module")
def model():
    return tiny_llama().eval()


def answer(model, sampling, **options):
    chunks = []
    result = stream_text(model, TOKENIZER, PROMPT, sampling, chunks.append, **options)
    return "".join(chunks), result


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_streamed_text_equals_batch_generation(model, temperature):
    sampling = SamplingParams(40, temperature, 0.95, seed=3)
    completions = []
    generate(
        model, TOKENIZER, [PROMPT], sampling,
        batch_rows=1, cache_gib=1.0, on_completion=lambda _, c: completions.append(c),
    )  # fmt: skip
    text, result = answer(model, sampling)
    # An incomplete character at the end is left out, while batch decoding gives U+FFFD.
    assert text.strip("� \n\t") in completions[0].text
    assert len(text.strip()) >= len(completions[0].text.rstrip("�")) - 3
    assert (result.n_tokens, result.finish_reason) == (
        completions[0].n_tokens,
        completions[0].finish,
    )


def test_chunked_prefill_does_not_change_the_answer(model, monkeypatch):
    from the_block_llm.advisor.output import streaming

    one_chunk = answer(model, SamplingParams(12))
    monkeypatch.setattr(streaming, "_PREFILL_TOKENS", 4)
    assert answer(model, SamplingParams(12)) == one_chunk


def test_answer_ends_before_a_stop_string(model):
    full_text, _ = answer(model, SamplingParams(30))
    stop = full_text[7:9]
    text, result = answer(model, SamplingParams(30), stop_strings=["never written", stop])
    assert text == full_text[: full_text.index(stop)]
    assert result.finish_reason == "stop"


def test_partial_stop_string_is_emitted_at_the_end(model):
    full_text, _ = answer(model, SamplingParams(10))
    text, result = answer(model, SamplingParams(10), stop_strings=[full_text[-1] + "and on"])
    assert (text, result.finish_reason) == (full_text, "length")


def test_answer_ends_when_cancelled(model):
    calls = itertools.count()
    _, result = answer(model, SamplingParams(200), is_cancelled=lambda: next(calls) > 5)
    assert result.finish_reason == "cancelled"
    assert result.n_tokens < 8


def test_answer_ends_at_the_deadline(model):
    _, result = answer(model, SamplingParams(200), deadline=time.monotonic())
    assert result.finish_reason == "time"
    assert result.n_tokens == 1


def test_characters_are_never_split(model):
    chunks = []
    stream_text(model, TOKENIZER, PROMPT, SamplingParams(60, 1.5, seed=1), chunks.append)
    assert chunks
    # An incomplete character would decode to a lone surrogate, which cannot be encoded.
    assert all(chunk.encode() for chunk in chunks)


def test_repetition_penalty_applies_to_the_answer(model):
    plain, _ = answer(model, SamplingParams(40))
    varied, _ = answer(model, SamplingParams(40), repetition_penalty=1.8)
    assert len(set(varied)) > len(set(plain))
