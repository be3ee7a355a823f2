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


def answer(model, decoding, **options):
    pieces = []
    end = stream_text(model, TOKENIZER, PROMPT, decoding, pieces.append, **options)
    return "".join(pieces), end


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_stream_is_what_generating_at_once_gives(model, temperature):
    decoding = SamplingParams(40, temperature, 0.95, seed=3)
    whole = []
    generate(
        model, TOKENIZER, [PROMPT], decoding,
        batch_rows=1, cache_gib=1.0, on_completion=lambda _, c: whole.append(c),
    )  # fmt: skip
    text, end = answer(model, decoding)
    # Half characters at the very end are left out, where decoding at once puts a stand-in.
    assert text.strip("� \n\t") in whole[0].text
    assert len(text.strip()) >= len(whole[0].text.rstrip("�")) - 3
    assert (end.n_tokens, end.finish_reason) == (whole[0].n_tokens, whole[0].finish)


def test_a_long_prompt_read_in_pieces_gives_the_same(model, monkeypatch):
    from the_block_llm.advisor.output import streaming

    at_once = answer(model, SamplingParams(12))
    monkeypatch.setattr(streaming, "_PREFILL_TOKENS", 4)
    assert answer(model, SamplingParams(12)) == at_once


def test_it_ends_before_a_stop_text(model):
    whole, _ = answer(model, SamplingParams(30))
    stop = whole[7:9]
    text, end = answer(model, SamplingParams(30), stop_strings=["never written", stop])
    assert text == whole[: whole.index(stop)]
    assert end.finish_reason == "stop"


def test_what_might_have_been_a_stop_text_is_not_lost(model):
    whole, _ = answer(model, SamplingParams(10))
    text, end = answer(model, SamplingParams(10), stop_strings=[whole[-1] + "and on"])
    assert (text, end.finish_reason) == (whole, "length")


def test_it_ends_when_cancelled(model):
    calls = itertools.count()
    _, end = answer(model, SamplingParams(200), is_cancelled=lambda: next(calls) > 5)
    assert end.finish_reason == "cancelled"
    assert end.n_tokens < 8


def test_it_ends_when_time_is_up(model):
    _, end = answer(model, SamplingParams(200), deadline=time.monotonic())
    assert end.finish_reason == "time"
    assert end.n_tokens == 1


def test_no_character_comes_in_halves(model):
    pieces = []
    stream_text(model, TOKENIZER, PROMPT, SamplingParams(60, 1.5, seed=1), pieces.append)
    assert pieces
    # Half a character decodes to the replacement mark or a lone surrogate.
    assert all(piece.encode() for piece in pieces)


def test_repeating_is_made_unlikely_but_citing_the_prompt_is_not(model):
    plain, _ = answer(model, SamplingParams(40))
    varied, _ = answer(model, SamplingParams(40), repetition_penalty=1.8)
    assert len(set(varied)) > len(set(plain))
