import pytest
from tests.pipelines.behavioral_eval import toy_history

from the_block_llm.pipelines.behavioral_eval.retrieval import (
    Passage,
    PassageIndex,
    cut_at_lines,
    passages_at_cutoff,
)


@pytest.fixture(scope="module")
def passages(tmp_path_factory):
    tables = toy_history.tables(tmp_path_factory.mktemp("tables"))
    return list(passages_at_cutoff(toy_history.CUTOFF, **tables, passage_characters=300))


def test_nothing_from_after_the_cutoff_is_found(passages):
    text = "\n".join(f"{passage.source}\n{passage.text}" for passage in passages)
    assert "part 1" in text
    assert "part 3" not in text
    assert "trick number 23" in text
    assert "trick number 24" not in text
    assert "new_" not in text


def test_commits_are_found_by_message_and_path(passages):
    [found] = PassageIndex(passages).find("Which commit taught trick number 13?", 1)
    assert "ledger: teach it trick number 13" in found.text
    assert "- src/ledger/rules.rs" in found.text


def test_files_are_found_by_their_path():
    index = PassageIndex([Passage("src/vote_count.rs", "fn a() {}"), Passage("b.rs", "fn b() {}")])
    assert [p.source for p in index.find("What is in voteCount?", 5)] == ["src/vote_count.rs"]


@pytest.mark.parametrize("question", ["", "zebra", "?!"])
def test_what_shares_no_word_is_not_found(question):
    index = PassageIndex([Passage("a.rs", "fn vote() {}"), Passage("b.rs", "fn count() {}")])
    assert index.find(question, 3) == []


def test_an_empty_repository_has_no_passages():
    assert PassageIndex([]).find("anything", 3) == []


def test_passages_together_are_the_text():
    text = "\n".join("x" * (n % 17) for n in range(200))
    pieces = cut_at_lines(text, 50)
    assert "".join(pieces).replace("\n", "") == text.replace("\n", "")
    assert all(len(piece) <= 50 for piece in pieces)
