import itertools

import pytest

from the_block_llm.retrieval.citations import citations, cited_spans, known_names

KNOWN = known_names(
    [
        {"path": "src/ledger/mod.rs", "text": "pub struct StateManager;\nfn apply_block() {}"},
        {"path": "docs/guide.md", "text": None},
    ],
    [{"sha": "1f2e3d4c5b6a79881234567890abcdef12345678"}],
)


@pytest.mark.parametrize(
    ("answer", "cited"),
    [
        ("See src/ledger/mod.rs.", [("path", "src/ledger/mod.rs", True)]),
        ("See src/ledger/mood.rs!", [("path", "src/ledger/mood.rs", False)]),
        ("It is in ledger/mod.rs", [("path", "ledger/mod.rs", True)]),
        ("(guide.md)", [("path", "guide.md", True)]),
        ("under src/ledger/", [("path", "src/ledger/", True)]),
        ("Commit 1f2e3d4 did it", [("commit", "1f2e3d4", True)]),
        ("Commit 1f2e3d5 did it", [("commit", "1f2e3d5", False)]),
        ("`StateManager::apply_block()`", [("symbol", "StateManager::apply_block", True)]),
        ("`StateMangler`", [("symbol", "StateMangler", False)]),
        ("e.g. a trade-off, i.e. both; 2/3 of 12345678", []),
        ("StateMangler without backticks", []),
        ("self.params and Node.js are no files here; lib.rs could be", [("path", "lib.rs", False)]),
        ("", []),
        ("asked.rs is what you asked about", []),
        ("mod.rs and mod.rs", [("path", "mod.rs", True)]),
    ],
)
def test_citations(answer, cited):
    found = citations(answer, "What is in asked.rs?", KNOWN)
    assert [(c.kind, c.text, c.exists) for c in found] == cited


@pytest.mark.parametrize(
    ("answer", "exists", "target", "line"),
    [
        ("[src/ledger/mod.rs:2]", True, "src/ledger/mod.rs", 2),
        ("src/ledger/mod.rs:1-2.", True, "src/ledger/mod.rs", 1),
        ("mod.rs:L2", True, "src/ledger/mod.rs", 2),
        ("[src/ledger/mod.rs:3]", False, None, None),
        ("[src/ledger/mod.rs:2-3]", False, None, None),
        ("[src/ledger/mod.rs:2-1]", False, None, None),
        ("[src/ledger/mod.rs:0]", False, None, None),
        ("mod.rs:999999999", False, None, None),
        (
            "[docs/guide.md:1]",
            False,
            None,
            None,
        ),  # its text is not available, so the line cannot be checked
        ("docs/guide.md", True, "docs/guide.md", None),
        ("src/ledger/", True, None, None),
        ("[1f2e3d4]", True, "1f2e3d4c5b6a79881234567890abcdef12345678", None),
        ("../../etc/passwd.txt:1", False, None, None),
    ],
)
def test_citation_exists_only_if_its_lines_exist(answer, exists, target, line):
    found = [span.citation for span in cited_spans(answer, KNOWN)]
    assert [(c.exists, c.target, c.line) for c in found] == [(exists, target, line)]


def test_spans_match_their_text_and_do_not_overlap():
    answer = "In `mod.rs` and [src/ledger/mod.rs:1], since 1f2e3d4."
    spans = cited_spans(answer, KNOWN)
    assert [answer[s.start : s.end] for s in spans] == [s.citation.text for s in spans]
    assert [s.citation.text for s in spans] == ["mod.rs", "src/ledger/mod.rs:1", "1f2e3d4"]
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))


def test_ambiguous_file_name_exists_without_a_target():
    known = known_names([{"path": f"{d}/mod.rs", "text": "x\n"} for d in "ab"], [])
    [span] = cited_spans("mod.rs:1", known)
    assert span.citation.exists
    assert span.citation.target is None
