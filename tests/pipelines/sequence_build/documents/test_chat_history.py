from tests.builders.documents import make_commit

from the_block_llm.pipelines.sequence_build.documents.chat_history import change_chats


def test_long_message_is_split_into_parts_without_loss() -> None:
    points = [f"- {'point ' * 30}{number}" for number in range(12)]
    commit = make_commit("Summary of the work", "\n".join(points), is_merge=True)
    chats = list(change_chats(commit, "train", ["a.py", "b.py"], seed=1))
    assert len(chats) > 1
    answers = "\n".join(chat.segments[1].text for chat in chats)
    assert all(point in answers for point in points)
    assert "part 1 of" in chats[0].segments[0].text
    assert "It changed a.py, b.py." in chats[-1].segments[1].text


def test_message_without_body_is_not_asked_for_reasons() -> None:
    [plain] = change_chats(make_commit("Add fees"), "train", ["fees.py"], seed=1)
    assert "why" not in plain.segments[0].text.lower()
    assert plain.segments[1].text == (
        "Commit c0ffee00 of 2026-01-01: Add fees\n\nIt changed fees.py (+3, -1 lines)."
    )
