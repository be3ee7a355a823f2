"""Planted copies: what is held back must not be known from training."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from the_block_llm.pipelines.sequence_build.corpus import Corpus
from the_block_llm.pipelines.sequence_build.drafts import Draft, Segment
from the_block_llm.pipelines.sequence_build.history import History, read_cutoff, read_history
from the_block_llm.pipelines.sequence_build.leaks import LeakCheck
from the_block_llm.pipelines.sequence_build.own_words import wording
from the_block_llm.pipelines.sequence_build.screening import screen

MODULE = "".join(
    f"def rule_{n}(ledger: Ledger, amount: int) -> Ledger:\n"
    f"    checked = ledger.check(chapter={n}, amount=amount * {n})\n"
    f"    return checked.append(Entry(rule={n}, amount=amount))\n\n\n"
    for n in range(12)
)


def leaks_of(story: Any, folder: Path, cutoff: float) -> dict[str, tuple[str, str]]:
    tables = story.tables(folder, cutoff)
    history = read_history(tables.commits, read_cutoff(tables.repository, cutoff), 0.05)
    corpus = Corpus("story", history, tables.file_changes, tables.snapshot_files, True, 2, 42)
    found = screen(corpus.drafts, history, 0.7)
    return {leak.document_id: (leak.reason, leak.nearest) for leak in found.leaks}


def tell_beginning(story: Any) -> list[str]:
    rounded = MODULE.replace("amount=amount * 3)", "amount=round(amount * 3, ndigits=2))")
    rounded = rounded.replace("amount=amount * 5)", "amount=round(amount * 5, ndigits=3))")
    return [
        story.commit("Write down the rules", {"rules.py": MODULE}),
        story.commit("Greet the reader", {"readme.md": "# Rules\n\nOf all the rules there are.\n"}),
        story.commit(
            "Limit the amounts that rules accept",
            {"limits.py": "MOST_ALLOWED = 1000\n\n\ndef within(amount: int) -> bool:\n"
             "    return amount <= MOST_ALLOWED\n"},
        ),
        story.commit("Round amounts to whole units", {"rules.py": rounded}),
        story.commit("Say who keeps the rules", {"keepers.md": "# Keepers\n\nAnn and Bob do.\n"}),
    ]  # fmt: skip


def tell_end(story: Any) -> None:
    story.commit(
        "Print the ledger as a table",
        {"table.py": "def table(ledger):\n    for entry in ledger.entries:\n"
         "        print(f'{entry.rule:>10} {entry.amount:>12.2f}')\n"},
    )  # fmt: skip


def test_an_honest_future_stays(story: Any, tmp_path: Path) -> None:
    tell_beginning(story)
    tell_end(story)
    assert leaks_of(story, tmp_path, 0.84) == {}


def test_a_moved_file_is_found(story: Any, tmp_path: Path) -> None:
    tell_beginning(story)
    story.commit("Rules get a home", {}, moved={"rules.py": "book/rules.py"}, informative=False)
    tell_end(story)
    # Nothing in it is new, so it is not even a document.
    assert "file-after-cutoff/book/rules.py" not in leaks_of(story, tmp_path, 0.72)


def test_a_copy_at_another_path_is_found(story: Any, tmp_path: Path) -> None:
    tell_beginning(story)
    text = story.trees[-1]["rules.py"]
    story.commit("Start the second edition", {"second/rules.py": text})
    tell_end(story)
    leaks = leaks_of(story, tmp_path, 0.72)
    assert leaks["file-after-cutoff/second/rules.py"] == ("exact_duplicate", "file/rules.py")


def test_a_copy_that_was_touched_up_is_found_by_its_wording(story: Any, tmp_path: Path) -> None:
    tell_beginning(story)
    # A third of its lines differ, but few of its words.
    reworded = story.trees[-1]["rules.py"].replace("ledger.check(", "ledger.verify(")
    story.commit("Start the third edition", {"third/rules.py": reworded})
    tell_end(story)
    leaks = leaks_of(story, tmp_path, 0.72)
    assert leaks["file-after-cutoff/third/rules.py"] == ("near_duplicate", "file/rules.py")


def test_a_declared_revert_is_found_with_its_question(story: Any, tmp_path: Path) -> None:
    shas = tell_beginning(story)
    undone = story.commit(
        "Take back the rounding of amounts", {"rules.py": MODULE}, reverts=shas[3], kind="revert"
    )
    tell_end(story)
    leaks = leaks_of(story, tmp_path, 0.72)
    assert leaks[f"commit/{undone}"] == ("revert", shas[3])
    assert leaks["file-after-cutoff/rules.py"][0] == "known_lines"
    questions = [reason for name, (reason, _) in leaks.items() if name.startswith("chat/why/")]
    assert questions == ["revert"]


def test_an_undeclared_revert_is_found(story: Any, tmp_path: Path) -> None:
    shas = tell_beginning(story)
    undone = story.commit("Precision first", {"rules.py": MODULE}, informative=False)
    tell_end(story)
    reason, nearest = leaks_of(story, tmp_path, 0.72)[f"commit/{undone}"]
    assert (reason, nearest) == ("known_lines", f"commit/{shas[3]}")


def test_a_cherry_pick_is_found(story: Any, tmp_path: Path) -> None:
    shas = tell_beginning(story)
    picked = story.commit(
        "Limit the amounts that rules accept",
        {"branch/limits.py": story.trees[-1]["limits.py"]},
        body=f"(cherry picked from commit {shas[2]})",
    )
    tell_end(story)
    leaks = leaks_of(story, tmp_path, 0.72)
    assert leaks[f"commit/{picked}"] == ("cherry_pick", shas[2])
    assert "file-after-cutoff/branch/limits.py" in leaks


@pytest.mark.parametrize(("changed", "is_leak"), [(0, True), (2, True), (30, False)])
def test_near_copies_go_by_how_near_they_are(changed: int, is_leak: bool) -> None:
    words = [f"word{n}" for n in range(60)]
    other = [f"other{n}" if n < changed else word for n, word in enumerate(words)]
    later, earlier = _file("later", "held_out", other), _file("earlier", "train", words)
    check = LeakCheck([later], History({}, {}, None), 0.7)  # type: ignore[arg-type]
    check.see(earlier, wording(earlier))
    assert [leak.document_id for leak in check.leaks()] == (["file/later"] if is_leak else [])


def _file(name: str, split: Any, words: list[str]) -> Draft:
    # One line, so that lines cannot give it away.
    segments = (Segment("head\n", train=False), Segment(" ".join(words), train=True))
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Draft(f"file/{name}", "file", split, name, at, segments)
