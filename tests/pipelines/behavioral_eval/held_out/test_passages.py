import pytest
from tests.pipelines.behavioral_eval import toy_history

from the_block_llm.pipelines.behavioral_eval.held_out.passages import passages_at_cutoff
from the_block_llm.retrieval.passages import PassageIndex


@pytest.fixture(scope="module")
def passages(tmp_path_factory):
    tables = toy_history.tables(tmp_path_factory.mktemp("tables"))
    return list(passages_at_cutoff(toy_history.CUTOFF, **tables, passage_characters=300))


def test_nothing_after_the_cutoff_is_indexed(passages):
    text = "\n".join(f"{passage.source}\n{passage.text}" for passage in passages)
    assert "part 1" in text
    assert "part 3" not in text
    assert "trick number 23" in text
    assert "trick number 24" not in text
    assert "new_" not in text


def test_commits_are_found_by_message_and_path(passages):
    [passage] = PassageIndex(passages).find("Which commit taught trick number 13?", 1)
    assert "ledger: teach it trick number 13" in passage.text
    assert "- src/ledger/rules.rs" in passage.text
