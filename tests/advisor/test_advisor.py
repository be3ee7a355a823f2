import itertools

import pytest
import torch
from tests.builders.advised_repository import (
    FILES,
    advisor_parameters,
    build_advised_repository,
    write_adapter,
    write_tables,
)
from tests.builders.likelihoods import continuation_nats
from tests.builders.tiny_llama import tiny_profile

from the_block_llm.advisor.advisor import Advisor
from the_block_llm.advisor.models.pool import ModelPool, estimate_weight_bytes
from the_block_llm.advisor.output.line_perplexity import highest_perplexity_lines
from the_block_llm.advisor.output.results import GenerationOptions
from the_block_llm.advisor.prompt.prompts import Message
from the_block_llm.errors import ModelUnavailableError, PromptError, TableError
from the_block_llm.models.base.quantized_loading import load_base_model
from the_block_llm.models.profiles import ModelProfiles, resolve_profile

CODE = "fn add(a: u32, b: u32) -> u32 {\n    a + b\n}\n\nlet zqx = 0xdeadbeef ^^ !!;\n"


def test_an_answer_says_what_it_read_and_who_gave_it(advisor):
    parts = []
    answer = advisor.analyze_architecture("Who tallies votes?", on_part=parts.append)
    assert answer.model == "tiny@2026-01-01T00.00.00Z"
    assert answer.passages[0].source in {"src/consensus.rs", "src/ledger.rs"}
    assert tuple(parts) == answer.parts
    assert answer.finish_reason in {"stop", "length"}
    assert answer.n_prompt_tokens > 200
    assert answer.citations_checked


def test_without_retrieval_and_with_the_base(advisor):
    plain = advisor.analyze_architecture("Who tallies votes?", retrieval=False)
    assert plain.passages == ()
    assert plain.n_prompt_tokens < 100
    base = advisor.analyze_architecture("Who tallies votes?", retrieval=False, adapter="base")
    assert base.model == "tiny@base"
    assert base.text != plain.text, "the adapter changes what is said"
    again = advisor.analyze_architecture("Who tallies votes?", retrieval=False)
    assert again.text == plain.text, "and is on again afterwards"


def test_the_context_and_earlier_turns_are_read(advisor):
    question = [Message("user", "And why?")]
    alone = advisor.converse(question, retrieval=False)
    turns = [Message("user", "Who?"), Message("assistant", "Nobody."), *question]
    assert advisor.converse(turns, retrieval=False).n_prompt_tokens > alone.n_prompt_tokens
    with_context = advisor.converse(question, "code " * 20, retrieval=False)
    assert with_context.n_prompt_tokens > alone.n_prompt_tokens + 90


def test_turns_that_no_longer_fit_are_dropped_and_counted(advisor):
    long = [
        Message("user" if turn % 2 == 0 else "assistant", f"{turn} " * 100) for turn in range(20)
    ]
    answer = advisor.converse([*long, Message("user", "So?")], retrieval=False)
    assert 0 < answer.dropped_turns < 20
    assert answer.dropped_turns % 2 == 0
    assert answer.n_prompt_tokens <= 1500


@pytest.mark.parametrize("question", ["", "  \n", "x" * 5000])
def test_a_question_that_cannot_be_put_is_refused_in_words(advisor, question):
    with pytest.raises(PromptError, match=r"empty|the limit is 1,500"):
        advisor.analyze_architecture(question, retrieval=False)


@pytest.mark.parametrize(
    "question", ["<|im_end|>", "何が壊れますか", "🦀" * 50, "\x00\x1b[2J", "'\"`"]
)
def test_any_question_gets_an_answer(advisor, question):
    assert advisor.analyze_architecture(question).finish_reason in {"stop", "length"}


def test_passages_stay_within_their_budget(data, parameters):
    tight = {**parameters["advisor"]["cpu"], "passage_tokens": 40}
    advisor = Advisor(advisor_parameters(data, cpu=tight))
    answer = advisor.analyze_architecture("ledger block votes consensus")
    assert len(answer.passages) == 1, "the best one, cut"
    passage = answer.passages[0]
    assert passage.text
    assert FILES.get(passage.source, passage.text).find(passage.text) >= 0


def test_a_gap_is_filled_from_both_sides(advisor):
    pieces = []
    made = advisor.complete_code(
        "fn add(a: u32", ") -> u32 {", adapter="base", options=GenerationOptions(max_new_tokens=8),
        on_text=pieces.append,
    )  # fmt: skip
    assert made.model == "tiny-coder@base"
    assert "".join(pieces) == made.text
    assert made.n_prompt_tokens == len("fn add(a: u32) -> u32 {") + 3
    assert 0 < made.n_tokens <= 8


def test_of_long_code_the_nearest_is_read(advisor):
    made = advisor.complete_code("a" * 9000 + "b", "c" * 9000, adapter="base")
    assert 1000 < made.n_prompt_tokens <= 1500
    with pytest.raises(PromptError, match="no code to complete"):
        advisor.complete_code("", "", adapter="base")


def test_hybrid_asks_about_what_surprised(advisor, monkeypatch):
    seen = []
    original = Advisor.analyze_architecture
    monkeypatch.setattr(
        Advisor, "analyze_architecture",
        lambda self, question, context, **rest: (
            seen.append(context), original(self, question, context, **rest))[1],
    )  # fmt: skip
    found = advisor.hybrid_analysis(CODE, completion_model="tiny-coder@base")
    assert len(found.lines) == 2
    assert found.lines[0].bits_per_token >= found.lines[1].bits_per_token
    for line in found.lines:
        assert CODE.split("\n")[line.line - 1] == line.text
        assert f"Line {line.line}, {line.bits_per_token:.1f} bits a token" in seen[0]
    assert found.answer.model == "tiny@2026-01-01T00.00.00Z"
    assert found.completion_model == "tiny-coder@base"
    with pytest.raises(PromptError, match="no code to analyze"):
        advisor.hybrid_analysis("}\n", completion_model="tiny-coder@base")


def test_surprise_is_what_the_model_says_of_each_token(parameters):
    profile = resolve_profile(ModelProfiles.model_validate(parameters["models"]), "tiny-coder")
    models = ModelPool(1.0, _scratch(parameters))
    with models.acquire(profile, None) as (model, tokenizer):
        found = {
            line.line: line.bits_per_token
            for line in highest_perplexity_lines(model, tokenizer, "abcd\nefgh\n", 9)
        }
        ids = tokenizer("abcd\nefgh\n")["input_ids"]
        # One token a byte: the second line is e, f, g, h and its line break.
        costs = [
            continuation_nats(model, ids[:at], [[ids[at]]])[0] / 0.6931471805599453
            for at in range(5, 10)
        ]
    assert found[2] == pytest.approx(sum(costs) / 5, rel=1e-4)


def test_long_code_is_measured_in_windows_without_a_seam(parameters, monkeypatch):
    from the_block_llm.advisor.output import line_perplexity

    profile = resolve_profile(ModelProfiles.model_validate(parameters["models"]), "tiny-coder")
    models = ModelPool(1.0, _scratch(parameters))
    code = "".join(f"let a{n} = b{n * 7};\n" for n in range(12))
    with models.acquire(profile, None) as (model, tokenizer):
        whole = highest_perplexity_lines(model, tokenizer, code, 99)
        monkeypatch.setattr(line_perplexity, "_WINDOW_TOKENS", 64)
        monkeypatch.setattr(line_perplexity, "_OVERLAP_TOKENS", 48)
        pieces = highest_perplexity_lines(model, tokenizer, code, 99)
    assert {line.line for line in pieces} == {line.line for line in whole} == set(range(1, 13))


def _scratch(parameters):
    from pathlib import Path

    return Path(parameters["advisor"]["adapters_folder"]) / "base"


def test_two_models_above_the_cap_take_turns(parameters):
    profiles = ModelProfiles.model_validate(parameters["models"])
    tiny, coder = (resolve_profile(profiles, name) for name in ("tiny", "tiny-coder"))
    cpu = torch.device("cpu")
    need = [estimate_weight_bytes(profile, cpu) for profile in (tiny, coder)]
    both = ModelPool(sum(need) * 1.4 / 2**30, _scratch(parameters), cpu)
    one = ModelPool(max(need) * 1.4 / 2**30, _scratch(parameters), cpu)
    for models, together in ((both, ["tiny", "tiny-coder"]), (one, ["tiny-coder"])):
        for profile in (tiny, coder):
            with models.acquire(profile, None):
                pass
        assert models.profiles_on_device == together
    with one.acquire(tiny, None):
        assert one.profiles_on_device == ["tiny"]
    none = ModelPool(min(need) / 2 / 2**30, _scratch(parameters), cpu)
    with (
        pytest.raises(ModelUnavailableError, match="advisor.memory_cap_gib"),
        none.acquire(tiny, None),
    ):
        pass


def test_the_arithmetic_of_weights_is_what_loading_takes(parameters):
    profile = resolve_profile(ModelProfiles.model_validate(parameters["models"]), "tiny")
    loaded = load_base_model(profile, torch.device("cpu")).get_memory_footprint()
    assert estimate_weight_bytes(profile, torch.device("cpu")) == pytest.approx(loaded, rel=0.05)


def test_kept_weights_are_the_same_and_made_again_for_others(parameters, tmp_path):
    profile = resolve_profile(ModelProfiles.model_validate(parameters["models"]), "tiny")
    ids = torch.arange(5, 40)[None]

    def logits():
        with ModelPool(1.0, tmp_path, torch.device("cpu")).acquire(profile, None) as (model, _):
            return model(ids).logits

    with torch.no_grad():
        fresh, kept = logits(), logits()
    assert torch.equal(fresh, kept)
    [copy] = tmp_path.iterdir()
    assert copy.name.startswith("tiny.nf4-")


def test_models_are_loaded_once(parameters, monkeypatch):
    from the_block_llm.advisor.models import pool

    calls = itertools.count()
    original = pool.load_quantized
    monkeypatch.setattr(pool, "load_quantized", lambda *values: (next(calls), original(*values))[1])
    advisor = Advisor(parameters)
    assert next(calls) == 0, "nothing before the first question"
    for _ in range(2):
        advisor.analyze_architecture(
            "Who?", retrieval=False, options=GenerationOptions(max_new_tokens=1)
        )
    assert next(calls) == 2


def test_answers_follow_the_tables(tmp_path):
    folder = build_advised_repository(tmp_path)
    advisor = Advisor(advisor_parameters(folder))
    assert not advisor.index().search("zebra", 3)
    write_tables(folder, {"src/zebra.rs": "fn zebra() {}\n"})
    assert [p.source for p in advisor.index().search("zebra", 3)] == ["src/zebra.rs"]


def test_before_git_ingest_only_retrieval_is_missing(tmp_path):
    folder = build_advised_repository(tmp_path)
    (folder / "01_raw/repository.json").unlink()
    advisor = Advisor(advisor_parameters(folder))
    with pytest.raises(TableError, match="--no-retrieval"):
        advisor.analyze_architecture("Who?")
    answer = advisor.analyze_architecture("Who?", retrieval=False)
    assert not answer.citations_checked
    assert answer.citations == ()


def test_adapters_are_swapped_not_collected(tmp_path):
    folder = build_advised_repository(tmp_path)
    first = "2026-01-01T00.00.00Z"
    second = write_adapter(folder, "2026-02-01T00.00.00Z", seed=2).name
    advisor = Advisor(advisor_parameters(folder))

    def say(version):
        answer = advisor.analyze_architecture("Who?", retrieval=False, adapter=version)
        return answer.text

    said = {version: say(version) for version in (first, "base", second)}
    assert len(set(said.values())) == 3
    assert {version: say(version) for version in reversed(said)} == said
    version = advisor.registry.resolve("advisor")
    with advisor._models.acquire(version.profile, version.adapter) as (model, _):
        assert list(model.peft_config) == ["2026-02-01T00_00_00Z"]


def test_an_adapter_with_added_tokens_answers_between_two_without(tmp_path):
    folder = build_advised_repository(tmp_path)
    profile = tiny_profile(folder / "llama")
    plain = folder / "06_models" / "tiny" / "2026-01-01T00.00.00Z"
    marked = write_adapter(folder, "2026-02-01T00.00.00Z", seed=2, marked=True)
    models = ModelPool(1.0, tmp_path / "copies", torch.device("cpu"))
    ids = torch.arange(5, 40)[None]
    seen = []
    # None is the base, under the adapter that was asked for last.
    for adapter in (plain, marked, None, plain):
        with models.acquire(profile, adapter) as (model, tokenizer), torch.no_grad():
            seen.append((len(tokenizer), model(input_ids=ids).logits))
    assert [width for width, _ in seen] == [260, 263, 260, 260]
    assert [logits.shape[-1] for _, logits in seen] == [260, 263, 260, 260]
    assert torch.equal(seen[0][1], seen[3][1])
