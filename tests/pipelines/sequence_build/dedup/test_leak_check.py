"""Planted copies: what is held back must not be known from training."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from the_block_llm.pipelines.sequence_build.dedup import leak_scan
from the_block_llm.pipelines.sequence_build.dedup.leak_check import Leak, LeakCheck
from the_block_llm.pipelines.sequence_build.dedup.leak_scan import note_words
from the_block_llm.pipelines.sequence_build.dedup.screening import screen
from the_block_llm.pipelines.sequence_build.dedup.signatures import worded
from the_block_llm.pipelines.sequence_build.document import RenderedDocument, Segment
from the_block_llm.pipelines.sequence_build.documents.corpus import Corpus
from the_block_llm.pipelines.sequence_build.history.commits import (
    History,
    read_history,
    require_cutoff,
)

MODULE = "".join(
    f"def rule_{n}(ledger: Ledger, amount: int) -> Ledger:\n"
    f"    checked = ledger.check(chapter={n}, amount=amount * {n})\n"
    f"    return checked.append(Entry(rule={n}, amount=amount))\n\n\n"
    for n in range(12)
)


NO_HISTORY = History({}, {}, None)  # type: ignore[arg-type]


def run_here(jobs: Any) -> Any:
    return [function(*arguments) for function, arguments in jobs]


def check_of(held_back: list[RenderedDocument], *seen: RenderedDocument) -> list[Leak]:
    check = LeakCheck([worded(held_back, NO_HISTORY)] if held_back else [], 0.7)
    for draft in seen:
        check.see(worded([draft], NO_HISTORY))
    at_once = LeakCheck([worded([draft], NO_HISTORY) for draft in held_back], 0.7)
    if seen:
        at_once.see(worded(seen, NO_HISTORY))
    assert at_once.leaks() == check.leaks()  # however documents come together
    return check.leaks()


def leaks_of(story: Any, folder: Path, cutoff: float) -> dict[str, tuple[str, str]]:
    tables = story.tables(folder, cutoff)
    history = read_history(tables.commits, require_cutoff(tables.repository, cutoff), 0.05)
    corpus = Corpus("story", history, tables.file_changes, tables.snapshot_files, True, 2, 42)
    noted = [note_words(((history, draft) for draft in corpus.documents()), folder / "words")]
    found = screen(noted, run_here, 0.7, holds_out=True)
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
    found = [leak.document_id for leak in check_of([later], earlier)]
    assert found == (["file/later"] if is_leak else [])


def _file(name: str, split: Any, words: list[str]) -> RenderedDocument:
    # One line, so that lines cannot give it away.
    segments = (Segment("head\n", train=False), Segment(" ".join(words), train=True))
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return RenderedDocument(f"file/{name}", "file", split, name, at, segments)


def test_a_line_of_many_held_back_documents_is_known_in_all_of_them() -> None:
    boilerplate = ["this", "stands", "everywhere"]
    later = [_file(f"later{n}", "held_out", boilerplate) for n in range(100)]
    text = "".join(f"{line}\n" for line in ("some", " ".join(boilerplate), "other", "more lines"))
    found = check_of(later, _file("earlier", "train", [text]))
    assert [leak.document_id for leak in found] == [draft.document_id for draft in later]
    assert {(leak.reason, leak.nearest, leak.similarity, leak.split) for leak in found} == {
        ("known_lines", "file/earlier", 1.0, "held_out")
    }


def test_each_side_is_compared_with_what_comes_before_it() -> None:
    words = [f"word{n}" for n in range(60)]
    for split, seen_on, is_leak in (
        ("validation", "train", True), ("validation", "validation", False),
        ("held_out", "train", True), ("held_out", "validation", True),
        ("held_out", "held_out", False),
    ):  # fmt: skip
        held_back = [_file("a", split, words), _file("b", "held_out", ["nothing", "alike"])]
        found = check_of(held_back, _file("seen", seen_on, words))
        assert [leak.source for leak in found] == (["a"] if is_leak else [])


def test_the_document_with_most_of_the_lines_is_named() -> None:
    lines = [f"line number {n} of the held-back text" for n in range(10)]
    later = _file("later", "held_out", ["\n".join(lines)])
    parts = (("few", lines[:2]), ("most", lines[1:7]), ("rest", lines[7:]))
    [leak] = check_of([later], *(_file(name, "train", ["\n".join(own)]) for name, own in parts))
    assert (leak.reason, leak.nearest, leak.similarity) == ("known_lines", "file/most", 1.0)


@pytest.mark.parametrize("held_back", [[], [[]]])
def test_nothing_held_back_or_nothing_said_in_it_gives_no_leak(held_back: list[list[str]]) -> None:
    later = [_file("later", "held_out", words) for words in held_back]
    earlier = _file("earlier", "train", ["some", "words", "that", "are", "learned"])
    assert check_of(later, earlier) == []


def test_held_back_documents_are_compared_a_few_at_a_time_with_the_same_result(
    story: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shas = tell_beginning(story)
    story.commit("Precision first", {"rules.py": MODULE}, informative=False)
    story.commit("Start the second edition", {"second/rules.py": story.trees[3]["rules.py"]})
    story.commit("Repeat", {"a.py": story.trees[2]["limits.py"]}, reverts=shas[2], kind="revert")
    tell_end(story)
    together = leaks_of(story, tmp_path / "together", 0.6)
    monkeypatch.setattr(leak_scan, "_DOCUMENTS_AT_ONCE", 2)
    monkeypatch.setattr(leak_scan, "_LINES_AT_ONCE", 40)
    assert leaks_of(story, tmp_path / "apart", 0.6) == together
    assert len(together) > 4
