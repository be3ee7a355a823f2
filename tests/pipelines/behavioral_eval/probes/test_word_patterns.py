import pytest

from the_block_llm.pipelines.behavioral_eval.probes.word_patterns import WordPattern, remove_echo
from the_block_llm.retrieval.words import split_words


@pytest.mark.parametrize(
    ("pattern", "text", "is_match"),
    [
        ("but", "a distributed system", False),
        ("but", "It works, but slowly", True),
        ("depend*", "Dependencies matter", True),
        ("depend*", "it is independent", False),
        ("depend", "it depends", False),
        ("trade-off*", "The tradeoffs", False),
        ("trade-off*", "Trade-offs abound", True),
        ("trade off*", "a trade-off", True),
        ("state manager", "the StateManager", True),
        ("state manager", "state_manager.rs", True),
        ("state manager", "the state of the manager", False),
        ("2/3", "a 2/3 majority", True),
        ("validator", "the validator’s stake", True),
        ("checked_sub", "a.checked_sub(b)", True),
        ("größe", "Die GRÖSSE", False),
        ("überlauf", "ein Überlauf", True),
    ],
)
def test_pattern(pattern, text, is_match):
    assert WordPattern(pattern).matches(split_words(text)) is is_match


@pytest.mark.parametrize("text", ["", "  ", "*", "de*pend", "a**", "(x)"])
def test_an_invalid_pattern_is_an_error(text):
    with pytest.raises(ValueError, match="not a valid pattern"):
        WordPattern(text)


@pytest.mark.parametrize(
    ("answer", "question", "left"),
    [
        ("a b c d e f", "a b c d e", "f"),
        ("x a b c d e y", "z a b c d e z", "x y"),
        ("a b c d", "a b c d e f", "a b c d"),
        ("is it fast yes", "is it fast", "yes"),
        ("anything", "", "anything"),
        ("", "a b", ""),
    ],
)
def test_remove_echo(answer, question, left):
    assert remove_echo(answer.split(), question.split()) == left.split()
