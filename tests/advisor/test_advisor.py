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
from tests.builders.likelihoods import continuation_nll
from tests.builders.processes import Script, running
from tests.builders.project import ROOT
from tests.builders.tiny_llama import save_tiny_llama, tiny_profile

from the_block_llm.advisor.advisor import Advisor
from the_block_llm.advisor.models.pool import ModelPool
from the_block_llm.advisor.output.line_perplexity import highest_perplexity_lines
from the_block_llm.advisor.output.results import GenerationOptions
from the_block_llm.advisor.prompt.prompts import Message
from the_block_llm.errors import ModelUnavailableError, PromptError, TableError
from the_block_llm.models.base.quantized_loading import load_base_model, quantized_bytes
from the_block_llm.models.profiles import ModelProfiles, resolve_profile

CODE = "fn add(a: u32, b: u32) -> u32 {\n    a + b\n}\n\nlet zqx = 0xdeadbeef ^^ !!;\n"


def test_answer_reports_passages_and_model(advisor):
    parts = []
    answer = advisor.analyze_architecture("Who tallies votes?", on_part=parts.append)
    assert answer.model == "tiny@2026-01-01T00.00.00Z"
    assert answer.passages[0].source in {"src/consensus.rs", "src/ledger.rs"}
    assert tuple(parts) == answer.parts
    assert answer.finish_reason in {"stop", "length"}
    assert answer.n_prompt_tokens > 200
    assert answer.citations_checked


def test_retrieval_and_adapter_can_be_turned_off(advisor):
    without_retrieval = advisor.analyze_architecture("Who tallies votes?", retrieval=False)
    assert without_retrieval.passages == ()
    assert without_retrieval.n_prompt_tokens < 100
    base = advisor.analyze_architecture("Who tallies votes?", retrieval=False, adapter="base")
    assert base.model == "tiny@base"
    assert base.text != without_retrieval.text, "the adapter changes the answer"
    again = advisor.analyze_architecture("Who tallies votes?", retrieval=False)
    assert again.text == without_retrieval.text, "the adapter is active again"


def test_context_and_earlier_messages_are_in_the_prompt(advisor):
    question = [Message("user", "And why?")]
    alone = advisor.converse(question, retrieval=False)
    turns = [Message("user", "Who?"), Message("assistant", "Nobody."), *question]
    assert advisor.converse(turns, retrieval=False).n_prompt_tokens > alone.n_prompt_tokens
    with_context = advisor.converse(question, "code " * 20, retrieval=False)
    assert with_context.n_prompt_tokens > alone.n_prompt_tokens + 90


def test_messages_that_do_not_fit_are_dropped_and_counted(advisor):
    messages = [
        Message("user" if index % 2 == 0 else "assistant", f"{index} " * 100) for index in range(20)
    ]
    answer = advisor.converse([*messages, Message("user", "So?")], retrieval=False)
    assert 0 < answer.dropped_turns < 20
    assert answer.dropped_turns % 2 == 0
    assert answer.n_prompt_tokens <= 1500


@pytest.mark.parametrize("question", ["", "  \n", "x" * 5000])
def test_empty_or_long_question_is_refused(advisor, question):
    with pytest.raises(PromptError, match=r"empty|the limit is 1,500"):
        advisor.analyze_architecture(question, retrieval=False)


@pytest.mark.parametrize(
    "question", ["<|im_end|>", "何が壊れますか", "🦀" * 50, "\x00\x1b[2J", "'\"`"]
)
def test_unusual_characters_are_answered(advisor, question):
    assert advisor.analyze_architecture(question).finish_reason in {"stop", "length"}


def test_passages_are_truncated_to_the_token_limit(data, parameters):
    budget = {**parameters["advisor"]["cpu"], "passage_tokens": 40}
    advisor = Advisor(advisor_parameters(data, cpu=budget))
    answer = advisor.analyze_architecture("ledger block votes consensus")
    assert len(answer.passages) == 1, "the best one, truncated"
    passage = answer.passages[0]
    assert passage.text
    assert FILES.get(passage.source, passage.text).find(passage.text) >= 0


def test_completion_uses_prefix_and_suffix(advisor):
    chunks = []
    completion = advisor.complete_code(
        "fn add(a: u32", ") -> u32 {", adapter="base", options=GenerationOptions(max_new_tokens=8),
        on_text=chunks.append,
    )  # fmt: skip
    assert completion.model == "tiny-coder@base"
    assert "".join(chunks) == completion.text
    assert completion.n_prompt_tokens == len("fn add(a: u32) -> u32 {") + 3
    assert 0 < completion.n_tokens <= 8


def test_long_code_is_truncated_around_the_gap(advisor):
    completion = advisor.complete_code("a" * 9000 + "b", "c" * 9000, adapter="base")
    assert 1000 < completion.n_prompt_tokens <= 1500
    with pytest.raises(PromptError, match="no code to complete"):
        advisor.complete_code("", "", adapter="base")


def test_hybrid_analysis_asks_about_the_highest_perplexity_lines(advisor, monkeypatch):
    contexts = []
    original = Advisor.analyze_architecture

    def analyze_architecture(self, question, context, **options):
        contexts.append(context)
        return original(self, question, context, **options)

    monkeypatch.setattr(Advisor, "analyze_architecture", analyze_architecture)
    analysis = advisor.hybrid_analysis(CODE, completion_model="tiny-coder@base")
    assert len(analysis.lines) == 2
    assert analysis.lines[0].bits_per_token >= analysis.lines[1].bits_per_token
    for line in analysis.lines:
        assert CODE.split("\n")[line.line - 1] == line.text
        assert f"Line {line.line}, {line.bits_per_token:.1f} bits a token" in contexts[0]
    assert analysis.answer.model == "tiny@2026-01-01T00.00.00Z"
    assert analysis.completion_model == "tiny-coder@base"
    with pytest.raises(PromptError, match="no code to analyze"):
        advisor.hybrid_analysis("}\n", completion_model="tiny-coder@base")


def test_bits_per_token_match_the_token_likelihoods(parameters):
    profile = resolve_profile(ModelProfiles.model_validate(parameters["models"]), "tiny-coder")
    models = ModelPool(1.0, _cache_folder(parameters))
    with models.acquire(profile, None) as (model, tokenizer):
        bits_per_token = {
            line.line: line.bits_per_token
            for line in highest_perplexity_lines(model, tokenizer, "abcd\nefgh\n", 9)
        }
        ids = tokenizer("abcd\nefgh\n")["input_ids"]
        # The tokenizer has one token per byte: line 2 is e, f, g, h and its line break.
        bits = [
            continuation_nll(model, ids[:index], [[ids[index]]])[0] / 0.6931471805599453
            for index in range(5, 10)
        ]
    assert bits_per_token[2] == pytest.approx(sum(bits) / 5, rel=1e-4)


def test_long_code_is_scored_in_windows_without_missing_lines(parameters, monkeypatch):
    from the_block_llm.advisor.output import line_perplexity

    profile = resolve_profile(ModelProfiles.model_validate(parameters["models"]), "tiny-coder")
    models = ModelPool(1.0, _cache_folder(parameters))
    code = "".join(f"let a{n} = b{n * 7};\n" for n in range(12))
    with models.acquire(profile, None) as (model, tokenizer):
        in_one_window = highest_perplexity_lines(model, tokenizer, code, 99)
        monkeypatch.setattr(line_perplexity, "_WINDOW_TOKENS", 64)
        monkeypatch.setattr(line_perplexity, "_OVERLAP_TOKENS", 48)
        in_several_windows = highest_perplexity_lines(model, tokenizer, code, 99)
    assert {line.line for line in in_several_windows} == set(range(1, 13))
    assert {line.line for line in in_one_window} == set(range(1, 13))


def _cache_folder(parameters):
    from pathlib import Path

    return Path(parameters["advisor"]["adapters_folder"]) / "base"


def test_models_are_evicted_above_the_memory_cap(parameters):
    profiles = ModelProfiles.model_validate(parameters["models"])
    tiny, coder = (resolve_profile(profiles, name) for name in ("tiny", "tiny-coder"))
    cpu = torch.device("cpu")
    weights = [quantized_bytes(profile, cpu) for profile in (tiny, coder)]
    both = ModelPool(sum(weights) * 1.4 / 2**30, _cache_folder(parameters), cpu)
    one = ModelPool(max(weights) * 1.4 / 2**30, _cache_folder(parameters), cpu)
    for models, on_device in ((both, ["tiny", "tiny-coder"]), (one, ["tiny-coder"])):
        for profile in (tiny, coder):
            with models.acquire(profile, None):
                pass
        assert list(models._on_device) == on_device
    with one.acquire(tiny, None):
        assert list(one._on_device) == ["tiny"]
    none = ModelPool(min(weights) / 2 / 2**30, _cache_folder(parameters), cpu)
    with (
        pytest.raises(ModelUnavailableError, match="advisor.memory_cap_gib"),
        none.acquire(tiny, None),
    ):
        pass


def test_estimated_weight_bytes_match_the_loaded_model(parameters):
    profile = resolve_profile(ModelProfiles.model_validate(parameters["models"]), "tiny")
    loaded = load_base_model(profile, torch.device("cpu")).get_memory_footprint()
    assert quantized_bytes(profile, torch.device("cpu")) == pytest.approx(loaded, rel=0.05)


def test_cached_quantized_weights_give_equal_logits(parameters, tmp_path):
    profile = resolve_profile(ModelProfiles.model_validate(parameters["models"]), "tiny")
    ids = torch.arange(5, 40)[None]

    def logits():
        with ModelPool(1.0, tmp_path, torch.device("cpu")).acquire(profile, None) as (model, _):
            return model(ids).logits

    with torch.no_grad():
        fresh, cached = logits(), logits()
    assert torch.equal(fresh, cached)
    [cache_entry] = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert cache_entry.name.startswith("tiny.nf4-")


QUANTIZE = """
    import sys
    from pathlib import Path
    import torch
    from tests.builders.tiny_llama import save_tiny_llama, tiny_profile
    from the_block_llm.advisor.models.quantized_cache import load_quantized
    folder, cache = Path(sys.argv[1]), Path(sys.argv[1]) / "cache"
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(6):
        # Two sets of weights of one profile: each makes the other's cache outdated.
        profile = tiny_profile(folder / f"weights{(n + int(sys.argv[2])) % 2}")
        model = load_quantized(profile, torch.device("cpu"), cache)
        print("loaded", float(model.get_input_embeddings().weight.sum()), profile.folder[-1])
"""


@pytest.mark.slow(seconds=30)
def test_processes_that_replace_each_others_quantized_weights_get_their_own(tmp_path):
    expected = {}
    for seed in (0, 1):
        save_tiny_llama(tmp_path / f"weights{seed}", seed)
        model = load_base_model(tiny_profile(tmp_path / f"weights{seed}"), torch.device("cpu"))
        expected[str(seed)] = float(model.get_input_embeddings().weight.sum())
    processes = [Script(QUANTIZE, tmp_path, n, cwd=ROOT) for n in range(3)]
    with running(*processes):
        for process in processes:
            process.wait_for("ready")
        for process in processes:
            process.send("go")
        for process in processes:
            lines = [line for line in process.finish().splitlines() if line.startswith("loaded")]
            assert len(lines) == 6
            for line in lines:
                _, total, weights = line.split()
                assert float(total) == expected[weights]


def test_models_are_loaded_on_first_use_and_only_once(parameters, monkeypatch):
    from the_block_llm.advisor.models import pool

    calls = itertools.count()
    original = pool.load_quantized
    monkeypatch.setattr(pool, "load_quantized", lambda *values: (next(calls), original(*values))[1])
    advisor = Advisor(parameters)
    assert next(calls) == 0, "nothing is loaded before the first question"
    for _ in range(2):
        advisor.analyze_architecture(
            "Who?", retrieval=False, options=GenerationOptions(max_new_tokens=1)
        )
    assert next(calls) == 2


def test_index_is_rebuilt_when_the_tables_change(tmp_path):
    folder = build_advised_repository(tmp_path)
    advisor = Advisor(advisor_parameters(folder))
    assert not advisor.index().search("zebra", 3)
    write_tables(folder, {"src/zebra.rs": "fn zebra() {}\n"})
    assert [p.source for p in advisor.index().search("zebra", 3)] == ["src/zebra.rs"]


def test_index_of_before_is_kept_while_a_run_replaces_the_tables(tmp_path):
    folder = build_advised_repository(tmp_path)
    advisor = Advisor(advisor_parameters(folder))
    before = advisor.index()
    finished = (folder / "02_intermediate/snapshot_counts.json").read_bytes()
    write_tables(folder, {"src/zebra.rs": "fn zebra() {}\n"}, pinned_at="later")
    (folder / "02_intermediate/snapshot_counts.json").write_bytes(finished)
    assert advisor.index() is before
    assert Advisor(advisor_parameters(folder)).index().fingerprint == before.fingerprint
    write_tables(folder, {"src/zebra.rs": "fn zebra() {}\n"}, pinned_at="later")
    assert [p.source for p in advisor.index().search("zebra", 3)] == ["src/zebra.rs"]


def test_without_tables_only_retrieval_fails(tmp_path):
    folder = build_advised_repository(tmp_path)
    (folder / "01_raw/repository.json").unlink()
    advisor = Advisor(advisor_parameters(folder))
    with pytest.raises(TableError, match="--no-retrieval"):
        advisor.analyze_architecture("Who?")
    answer = advisor.analyze_architecture("Who?", retrieval=False)
    assert not answer.citations_checked
    assert answer.citations == ()


def test_only_the_last_adapter_stays_loaded(tmp_path):
    folder = build_advised_repository(tmp_path)
    first = "2026-01-01T00.00.00Z"
    second = write_adapter(folder, "2026-02-01T00.00.00Z", seed=2).name
    advisor = Advisor(advisor_parameters(folder))

    def answer(version):
        result = advisor.analyze_architecture("Who?", retrieval=False, adapter=version)
        return result.text

    answers = {version: answer(version) for version in (first, "base", second)}
    assert len(set(answers.values())) == 3
    assert {version: answer(version) for version in reversed(answers)} == answers
    version = advisor.registry.resolve("advisor")
    with advisor._models.acquire(version.profile, version.adapter) as (model, _):
        assert list(model.peft_config) == ["2026-02-01T00_00_00Z"]


def test_adapters_with_and_without_added_tokens_alternate(tmp_path):
    folder = build_advised_repository(tmp_path)
    profile = tiny_profile(folder / "llama")
    plain = folder / "06_models" / "tiny" / "2026-01-01T00.00.00Z"
    with_added_tokens = write_adapter(folder, "2026-02-01T00.00.00Z", seed=2, has_added_tokens=True)
    models = ModelPool(1.0, tmp_path / "copies", torch.device("cpu"))
    ids = torch.arange(5, 40)[None]
    results = []
    # None is the base, with the last adapter still loaded.
    for adapter in (plain, with_added_tokens, None, plain):
        with models.acquire(profile, adapter) as (model, tokenizer), torch.no_grad():
            results.append((len(tokenizer), model(input_ids=ids).logits))
    assert [n_tokens for n_tokens, _ in results] == [260, 263, 260, 260]
    assert [logits.shape[-1] for _, logits in results] == [260, 263, 260, 260]
    assert torch.equal(results[0][1], results[3][1])
