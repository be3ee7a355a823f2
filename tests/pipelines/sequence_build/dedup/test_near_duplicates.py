"""Planted copies: evaluation documents that repeat training text are leaks."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from the_block_llm.pipelines.sequence_build.dedup import leak_scan
from the_block_llm.pipelines.sequence_build.dedup.leak_scan import write_signatures
from the_block_llm.pipelines.sequence_build.dedup.minhash import (
    DocumentSignatures,
    signature_batches,
)
from the_block_llm.pipelines.sequence_build.dedup.near_duplicates import Leak, LeakCheck
from the_block_llm.pipelines.sequence_build.dedup.screening import screen
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


def run_jobs(jobs: Any) -> Any:
    return [function(*arguments) for function, arguments in jobs]


def signatures(*docs: RenderedDocument) -> DocumentSignatures:
    [batch] = signature_batches((NO_HISTORY, doc) for doc in docs)
    return DocumentSignatures.read(batch)


def find_leaks(evaluation: list[RenderedDocument], *scanned: RenderedDocument) -> list[Leak]:
    document_by_document = LeakCheck([signatures(*evaluation)] if evaluation else [], 0.7)
    for doc in scanned:
        document_by_document.scan(signatures(doc))
    in_one_batch = LeakCheck([signatures(doc) for doc in evaluation], 0.7)
    if scanned:
        in_one_batch.scan(signatures(*scanned))
    # The result does not depend on how documents are batched.
    assert in_one_batch.leaks() == document_by_document.leaks()
    return document_by_document.leaks()


def leaks_of(story: Any, folder: Path, cutoff: float) -> dict[str, tuple[str, str]]:
    tables = story.tables(folder, cutoff)
    history = read_history(tables.commits, require_cutoff(tables.repository, cutoff), 0.05)
    corpus = Corpus("story", history, tables.file_changes, tables.snapshot_files, True, 2, 42)
    documents = ((history, doc) for doc in corpus.documents())
    files = [write_signatures(documents, folder / "signatures")]
    screening = screen(files, run_jobs, 0.7, holds_out=True)
    return {leak.document_id: (leak.reason, leak.nearest) for leak in screening.leaks}


def add_training_commits(story: Any) -> list[str]:
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


def add_unrelated_commit(story: Any) -> None:
    story.commit(
        "Print the ledger as a table",
        {"table.py": "def table(ledger):\n    for entry in ledger.entries:\n"
         "        print(f'{entry.rule:>10} {entry.amount:>12.2f}')\n"},
    )  # fmt: skip


def test_new_text_is_no_leak(story: Any, tmp_path: Path) -> None:
    add_training_commits(story)
    add_unrelated_commit(story)
    assert leaks_of(story, tmp_path, 0.84) == {}


def test_a_moved_file_makes_no_evaluation_document(story: Any, tmp_path: Path) -> None:
    add_training_commits(story)
    story.commit("Rules get a home", {}, moved={"rules.py": "book/rules.py"}, informative=False)
    add_unrelated_commit(story)
    # It has no new line, so there is no document.
    assert "file-after-cutoff/book/rules.py" not in leaks_of(story, tmp_path, 0.72)


def test_a_copy_at_another_path_is_an_exact_duplicate(story: Any, tmp_path: Path) -> None:
    add_training_commits(story)
    text = story.trees[-1]["rules.py"]
    story.commit("Start the second edition", {"second/rules.py": text})
    add_unrelated_commit(story)
    leaks = leaks_of(story, tmp_path, 0.72)
    assert leaks["file-after-cutoff/second/rules.py"] == ("exact_duplicate", "file/rules.py")


def test_an_edited_copy_is_a_near_duplicate(story: Any, tmp_path: Path) -> None:
    add_training_commits(story)
    # A third of its lines differ, but few of its words.
    edited = story.trees[-1]["rules.py"].replace("ledger.check(", "ledger.verify(")
    story.commit("Start the third edition", {"third/rules.py": edited})
    add_unrelated_commit(story)
    leaks = leaks_of(story, tmp_path, 0.72)
    assert leaks["file-after-cutoff/third/rules.py"] == ("near_duplicate", "file/rules.py")


def test_a_declared_revert_and_the_chat_about_it_are_leaks(story: Any, tmp_path: Path) -> None:
    shas = add_training_commits(story)
    revert = story.commit(
        "Take back the rounding of amounts", {"rules.py": MODULE}, reverts=shas[3], kind="revert"
    )
    add_unrelated_commit(story)
    leaks = leaks_of(story, tmp_path, 0.72)
    assert leaks[f"commit/{revert}"] == ("revert", shas[3])
    assert leaks["file-after-cutoff/rules.py"][0] == "known_lines"
    chats = [reason for name, (reason, _) in leaks.items() if name.startswith("chat/why/")]
    assert chats == ["revert"]


def test_an_undeclared_revert_is_found_by_its_lines(story: Any, tmp_path: Path) -> None:
    shas = add_training_commits(story)
    revert = story.commit("Precision first", {"rules.py": MODULE}, informative=False)
    add_unrelated_commit(story)
    reason, nearest = leaks_of(story, tmp_path, 0.72)[f"commit/{revert}"]
    assert (reason, nearest) == ("known_lines", f"commit/{shas[3]}")


def test_a_cherry_pick_is_found(story: Any, tmp_path: Path) -> None:
    shas = add_training_commits(story)
    picked = story.commit(
        "Limit the amounts that rules accept",
        {"branch/limits.py": story.trees[-1]["limits.py"]},
        body=f"(cherry picked from commit {shas[2]})",
    )
    add_unrelated_commit(story)
    leaks = leaks_of(story, tmp_path, 0.72)
    assert leaks[f"commit/{picked}"] == ("cherry_pick", shas[2])
    assert "file-after-cutoff/branch/limits.py" in leaks


@pytest.mark.parametrize(("changed", "is_leak"), [(0, True), (2, True), (30, False)])
def test_near_duplicates_above_the_similarity_are_leaks(changed: int, is_leak: bool) -> None:
    words = [f"word{n}" for n in range(60)]
    other = [f"other{n}" if n < changed else word for n, word in enumerate(words)]
    later, earlier = _file("later", "held_out", other), _file("earlier", "train", words)
    found = [leak.document_id for leak in find_leaks([later], earlier)]
    assert found == (["file/later"] if is_leak else [])


def _file(name: str, split: Any, words: list[str]) -> RenderedDocument:
    # A single line, so only MinHash can match it.
    segments = (Segment("head\n", train=False), Segment(" ".join(words), train=True))
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return RenderedDocument(f"file/{name}", "file", split, name, at, segments)


def test_a_line_shared_by_many_evaluation_documents_counts_in_all_of_them() -> None:
    boilerplate = ["this", "stands", "everywhere"]
    later = [_file(f"later{n}", "held_out", boilerplate) for n in range(100)]
    text = "".join(f"{line}\n" for line in ("some", " ".join(boilerplate), "other", "more lines"))
    found = find_leaks(later, _file("earlier", "train", [text]))
    assert [leak.document_id for leak in found] == [doc.document_id for doc in later]
    assert {(leak.reason, leak.nearest, leak.similarity, leak.split) for leak in found} == {
        ("known_lines", "file/earlier", 1.0, "held_out")
    }


def test_each_split_is_compared_with_earlier_splits_only() -> None:
    words = [f"word{n}" for n in range(60)]
    for split, scanned_split, is_leak in (
        ("validation", "train", True), ("validation", "validation", False),
        ("held_out", "train", True), ("held_out", "validation", True),
        ("held_out", "held_out", False),
    ):  # fmt: skip
        evaluation = [_file("a", split, words), _file("b", "held_out", ["nothing", "alike"])]
        found = find_leaks(evaluation, _file("scanned", scanned_split, words))
        assert [leak.source for leak in found] == (["a"] if is_leak else [])


def test_nearest_is_the_document_with_most_of_the_lines() -> None:
    lines = [f"line number {n} of the evaluation text" for n in range(10)]
    later = _file("later", "held_out", ["\n".join(lines)])
    sources = (("few", lines[:2]), ("most", lines[1:7]), ("rest", lines[7:]))
    earlier = [_file(name, "train", ["\n".join(part)]) for name, part in sources]
    [leak] = find_leaks([later], *earlier)
    assert (leak.reason, leak.nearest, leak.similarity) == ("known_lines", "file/most", 1.0)


@pytest.mark.parametrize("evaluation", [[], [[]]])
def test_no_or_empty_evaluation_documents_give_no_leak(evaluation: list[list[str]]) -> None:
    later = [_file("later", "held_out", words) for words in evaluation]
    earlier = _file("earlier", "train", ["some", "words", "that", "are", "learned"])
    assert find_leaks(later, earlier) == []


def test_several_scans_find_the_same_leaks_as_one(
    story: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shas = add_training_commits(story)
    story.commit("Precision first", {"rules.py": MODULE}, informative=False)
    story.commit("Start the second edition", {"second/rules.py": story.trees[3]["rules.py"]})
    story.commit("Repeat", {"a.py": story.trees[2]["limits.py"]}, reverts=shas[2], kind="revert")
    add_unrelated_commit(story)
    in_one_scan = leaks_of(story, tmp_path / "one", 0.6)
    monkeypatch.setattr(leak_scan, "_MAX_DOCUMENTS_PER_SCAN", 2)
    monkeypatch.setattr(leak_scan, "_MAX_LINES_PER_SCAN", 40)
    assert leaks_of(story, tmp_path / "several", 0.6) == in_one_scan
    assert len(in_one_scan) > 4
