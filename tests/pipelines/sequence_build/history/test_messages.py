import pytest
from tests.builders.documents import make_commit

from the_block_llm.pipelines.sequence_build.history.commits import Commit
from the_block_llm.pipelines.sequence_build.history.messages import commit_headline, commit_message


@pytest.mark.parametrize(
    ("commit", "message"),
    [
        (make_commit("Add fees"), "Add fees"),
        (make_commit("Add fees", "They pay.\n\nSigned-off-by: A <a@b.c>"), "Add fees\n\nThey pay."),
        (make_commit("feat: fees\\n\\nThey pay."), "feat: fees\n\nThey pay."),
        (make_commit("local changes", informative=False), ""),
        (make_commit("local changes", "Fees are paid by whoever sends.", informative=False),
         "Fees are paid by whoever sends."),
        (make_commit("Merge pull request #7 from a/b", "Keep temporary databases apart",
                  informative=False), ""),
        (make_commit("Merge pull request #7 from a/b", "Keep temporary databases well apart",
                  informative=False), "Keep temporary databases well apart"),
        (make_commit("Bringing remote agent/x up to date"), ""),
    ],
)  # fmt: skip
def test_commit_message_removes_boilerplate(commit: Commit, message: str) -> None:
    assert commit_message(commit) == message


def test_headline_is_truncated_after_a_sentence_or_word() -> None:
    assert commit_headline(make_commit("Pay fees. " + "And so on " * 20)) == "Pay fees."
    assert commit_headline(make_commit("and so on " * 20)).endswith(" and so on …")
