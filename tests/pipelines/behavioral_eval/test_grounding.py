import pytest

from the_block_llm.pipelines.behavioral_eval.grounding import citations, known_names

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
        ("", []),
        ("asked.rs is what you asked about", []),
        ("mod.rs and mod.rs", [("path", "mod.rs", True)]),
    ],
)
def test_citations(answer, cited):
    found = citations(answer, "What is in asked.rs?", KNOWN)
    assert [(c.kind, c.text, c.exists) for c in found] == cited
