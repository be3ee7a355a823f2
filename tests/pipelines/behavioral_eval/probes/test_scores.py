import pytest

from the_block_llm.pipelines.behavioral_eval.probes.scores import (
    distinct_bigram_ratio,
    has_loop,
    score_answer,
)
from the_block_llm.pipelines.behavioral_eval.probes.suites import Probe

PROBE = Probe.model_validate(
    {
        "id": "offline",
        "category": "edge_cases",
        "prompt": "However it came about, a third of the validators is offline. What follows?",
        "concepts": [
            {"concept": "liveness", "any_of": ["liveness", "halt*", "stall*"]},
            {"concept": "threshold", "any_of": ["threshold*", "quorum", "two thirds"]},
        ],
        "must_not_claim": [{"concept": "all is well", "any_of": ["nothing happens"]}],
        "why": "an edge case",
    }
)


@pytest.mark.parametrize(
    ("completion", "concepts", "share"),
    [
        ("Liveness is lost: two-thirds are needed.", ("liveness", "threshold"), 1.0),
        ("The chain stalls.", ("liveness",), 0.5),
        ("A shalting quorums.", (), 0.0),
        (PROBE.prompt, (), 0.0),
        ("", (), 0.0),
    ],
)
def test_concepts(completion, concepts, share):
    scores = score_answer(PROBE, completion, "stop")
    assert (scores.concepts, scores.concept_share) == (concepts, share)


def test_a_repeated_question_has_no_reasoning_markers():
    assert score_answer(PROBE, PROBE.prompt, "stop").reasoning == ()
    scores = score_answer(PROBE, "However, it stalls because the quorum is missed.", "stop")
    assert scores.reasoning == ("cause", "contrast")
    assert scores.reasoning_depth == pytest.approx(2 / 6)


def test_false_claims():
    assert score_answer(PROBE, "Nothing happens.", "stop").false_claims == ("all is well",)


@pytest.mark.parametrize(
    ("text", "interactions", "trade_offs"),
    [
        ("The two modules interact.", True, False),
        ("It costs memory.", False, True),
        ("A distributed ledger.", False, False),
    ],
)
def test_mentions(text, interactions, trade_offs):
    scores = score_answer(PROBE, text, "stop")
    assert (scores.mentions_interactions, scores.mentions_trade_offs) == (interactions, trade_offs)


@pytest.mark.parametrize(
    ("completion", "finish", "warnings"),
    [
        ("", "stop", ("empty",)),
        ("... !", "stop", ("empty",)),
        ("It is very good good good", "stop", ("loop",)),
        ("The quorum is", "length", ("cut_off",)),
        ("The quorum is lost.", "length", ()),
        ("The quorum is", "stop", ()),
        ("a b a b c a b a b d a b a b e a b a b f a b", "stop", ("low_variety",)),
    ],
)
def test_warnings(completion, finish, warnings):
    assert score_answer(PROBE, completion, finish).warnings == warnings


@pytest.mark.parametrize(
    ("text", "is_loop"),
    [
        ("one two one two", False),
        ("one two one two one two", True),
        ("x one two three one two three one two three y", True),
        ("good good", False),
        ("", False),
    ],
)
def test_has_loop(text, is_loop):
    assert has_loop(text.split()) is is_loop


@pytest.mark.parametrize(("text", "share"), [("", 1.0), ("a", 1.0), ("a a a", 0.5), ("a b c", 1.0)])
def test_distinct_pair_ratio(text, share):
    assert distinct_bigram_ratio(text.split()) == share
