"""What is worth a document, and what documents and questions say."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from the_block_llm.datasets.cutoff import Cutoff
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.sequence_build.code.docstrings import extract_docstrings
from the_block_llm.pipelines.sequence_build.code.imports import dependencies_first
from the_block_llm.pipelines.sequence_build.code.outline import extract_declarations
from the_block_llm.pipelines.sequence_build.code.source_file import SourceFile
from the_block_llm.pipelines.sequence_build.documents.chat_history import change_chats
from the_block_llm.pipelines.sequence_build.documents.commits import FileChange
from the_block_llm.pipelines.sequence_build.documents.completion_pairs import (
    commit_completion_pairs,
)
from the_block_llm.pipelines.sequence_build.documents.filters import exclusion_reason
from the_block_llm.pipelines.sequence_build.history.commits import (
    Commit,
    History,
    merged_commits,
)
from the_block_llm.pipelines.sequence_build.history.messages import commit_headline, commit_message

AT = datetime(2026, 1, 1, tzinfo=UTC)


def a_commit(subject: str, body: str = "", **facts: Any) -> Commit:
    values: dict[str, Any] = {
        "sha": "c0ffee00" * 5, "authored_at": AT, "committed_at": AT, "subject": subject,
        "body": body, "kind": "other", "is_merge": False, "is_bot": False, "reverts": None,
        "informative": True, "insertions": 3, "deletions": 1, "parents": (), **facts,
    }  # fmt: skip
    return Commit(**values)


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("src/app.py", "x = 1\n", None),
        ("docs/guide.md", "# Guide\n", None),
        ("tests/fixtures.py", "def fixtures(): ...\n", None),
        ("tests/fixtures/advisory/a.md", "# Someone else's\n", "fixture"),
        ("node/tests/vectors/fees.txt", "fee\n", "fixture"),
        ("docs/fonts/icons.svg", "<svg/>", "data_file"),
        ("run.log", "ok\n", "data_file"),
        ("target_tmp/debug/app.txt", "lib: a b\n", "data_file"),
        ("src/target.rs", "fn f() {}\n", None),
        ("book/index.html", "<!-- Book generated using mdBook -->", "rendered_page"),
        ("web/index.html", "<html><body>Ours</body></html>", None),
        ("package.json", '{"name": "small"}', None),
        ("dashboards/node.json", '{"panel": "row"}' * 2000, "data_file"),
        ("src/table.rs", "0x1f, 0x2c, 0x77, 0x08,\n" * 100, "data_file"),
    ],
)
def test_what_makes_no_document(path: str, text: str, reason: str | None) -> None:
    assert exclusion_reason(path, text) == reason


@pytest.mark.parametrize(
    ("commit", "message"),
    [
        (a_commit("Add fees"), "Add fees"),
        (a_commit("Add fees", "They pay.\n\nSigned-off-by: A <a@b.c>"), "Add fees\n\nThey pay."),
        (a_commit("feat: fees\\n\\nThey pay."), "feat: fees\n\nThey pay."),
        (a_commit("local changes", informative=False), ""),
        (a_commit("local changes", "Fees are paid by whoever sends.", informative=False),
         "Fees are paid by whoever sends."),
        (a_commit("Merge pull request #7 from a/b", "Keep temporary databases apart",
                  informative=False), ""),
        (a_commit("Merge pull request #7 from a/b", "Keep temporary databases well apart",
                  informative=False), "Keep temporary databases well apart"),
        (a_commit("Bringing remote agent/x up to date"), ""),
    ],
)  # fmt: skip
def test_what_a_message_says(commit: Commit, message: str) -> None:
    assert commit_message(commit) == message


def test_a_headline_is_short() -> None:
    assert commit_headline(a_commit("Pay fees. " + "And so on " * 20)) == "Pay fees."
    assert commit_headline(a_commit("and so on " * 20)).endswith(" and so on …")


def test_a_merge_on_the_main_line_brought_what_no_earlier_one_did() -> None:
    #  a - b ----- m1 - m2 (head)
    #   \- c - d -/    /
    #       \- e -----/
    parents = {"a": (), "b": ("a",), "c": ("a",), "d": ("c",), "e": ("c",),
               "m1": ("b", "d"), "m2": ("m1", "e")}  # fmt: skip
    commits = {sha: a_commit(sha, sha=sha, parents=of) for sha, of in parents.items()}
    history = History(commits, dict.fromkeys(commits, "train"), Cutoff("m2", AT, "m2"))
    assert merged_commits(history) == {"m1": ["c", "d"], "m2": ["e"]}


def test_a_long_message_is_asked_about_in_parts_of_which_none_is_lost() -> None:
    points = [f"- {'point ' * 30}{number}" for number in range(12)]
    commit = a_commit("Summary of the work", "\n".join(points), is_merge=True)
    chats = list(change_chats(commit, "train", ["a.py", "b.py"], seed=1))
    assert len(chats) > 1
    answers = "\n".join(chat.segments[1].text for chat in chats)
    assert all(point in answers for point in points)
    assert "part 1 of" in chats[0].segments[0].text
    assert "It changed a.py, b.py." in chats[-1].segments[1].text


def test_why_asks_for_reasons_only_where_there_are_some() -> None:
    [plain] = change_chats(a_commit("Add fees"), "train", ["fees.py"], seed=1)
    assert "why" not in plain.segments[0].text.lower()
    assert plain.segments[1].text == (
        "Commit c0ffee00 of 2026-01-01: Add fees\n\nIt changed fees.py (+3, -1 lines)."
    )


RUST = """//! Keeps accounts, and moves money between them.

/// What an owner holds; never below zero.
#[derive(Clone)]
pub struct Account {
    pub balance: u64,
}

impl Account {
    /// Moves money to another account, or says why not.
    pub fn pay(
        &mut self,
        to: &mut Account,
        amount: u64,
    ) -> Result<(), Error> {
        Ok(())
    }
}

fn private() {}
"""


def test_declarations_stand_in_one_line_as_they_are_written() -> None:
    assert [(d.name, d.line, d.is_nested) for d in extract_declarations(RUST, "Rust")] == [
        ("Account", "pub struct Account", False),
        (
            "Account::pay",
            "pub fn Account::pay(&mut self, to: &mut Account, amount: u64) -> Result<(), Error>",
            True,
        ),
    ]
    arrays = (
        "pub fn hash(parts: &[u8; 32], of: [u8; 4]) -> [u8; 32] {\n}\n"
        "impl Header {\n    pub fn id(&self) -> [u8; 32];\n}\n"
        "pub mod rng {\n    pub fn fill(to: &mut [u8]) {}\n}\n"
    )
    assert [d.line for d in extract_declarations(arrays, "Rust")] == [
        "pub fn hash(parts: &[u8; 32], of: [u8; 4]) -> [u8; 32]",
        "pub fn Header::id(&self) -> [u8; 32]",
        "pub mod rng",
        "pub fn rng::fill(to: &mut [u8])",
    ]
    python = "class A(B):\n    def f(self, x: int) -> int: ...\n    def _g(self): ...\n"
    assert [d.line for d in extract_declarations(python, "Python")] == [
        "class A(B)", "def f(self, x: int) -> int",
    ]  # fmt: skip
    assert extract_declarations("def broken(", "Python") == []


def test_descriptions_carry_the_declaration() -> None:
    found = {d.name: d for d in extract_docstrings(RUST, "Rust")}
    assert found["Account"].declared == "pub struct Account"
    assert found["Account::pay"].declared.startswith("pub fn pay(&mut self")
    assert found[""].text == "Keeps accounts, and moves money between them."
    key = "/// The key of a header, of all its fields.\npub fn key(of: &Header) -> [u8; 32] {\n}\n"
    assert extract_docstrings(key, "Rust")[0].declared == "pub fn key(of: &Header) -> [u8; 32]"
    page = (
        "# Rules\n\nOf all the rules there are two.\n\n---\n\n"
        "## Next\n\nSix plain words are here, too.\n"
    )
    assert [d.text for d in extract_docstrings(page, "Markdown")] == [
        "Of all the rules there are two.", "Six plain words are here, too.",
    ]  # fmt: skip


@pytest.fixture
def merged_story(story: Any) -> Any:
    """A branch merged before the cut-off whose description says what nothing else does."""
    lines = "".join(f"def part_{n}(x):\n    return x + {n}\n\n\n" for n in range(4))
    start = story.commit("Start the ledger", {"app/ledger.py": lines, "app/io.py": lines[:30]})
    for number in range(4):
        story.commit(
            f"Teach the ledger rule {number}",
            {"app/ledger.py": lines + f"RULE_{number} = {number} * 7  # of the house\n",
             "app/io.py": lines[:30] + f"SEPARATOR_{number} = '{number} and on'\n",
             "tests/fixtures/big.md": f"# Foreign {number}\n\nNothing of ours.\n"},
        )  # fmt: skip
    merge = story.commit(
        "Rules of the house", {}, is_merge=True, informative=True, kind="merge",
        body="Owners asked for limits, so every rule is checked before money moves.",
    )  # fmt: skip
    story.commits[-1]["parents"] = [start, story.commits[-2]["sha"]]
    for number in range(3):
        story.commit(
            f"Print the table {number}",
            {f"app/table{number}.py": f"def table_{number}(x):\n    print(x, {number})\n"},
        )  # fmt: skip
    story.commits[-3]["parents"] = [merge]
    return story


def documents_of(story: Any, folder: Path, profile: ModelProfile) -> dict[str, dict[str, Any]]:
    from tests.pipelines.sequence_build.test_nodes import Run

    run = Run(folder, story.tables(folder, 0.85), profile)
    return {row["document_id"]: row for row in run.documents.rows()} | {"report": run.report}


def learned(row: dict[str, Any]) -> str:
    return "".join(s["text"] for s in row["segments"] if s["train"])


def test_merges_fixtures_and_associations_from_a_repository(
    merged_story: Any, tmp_path: Path, smollm2_profile: ModelProfile
) -> None:
    found = documents_of(merged_story, tmp_path, smollm2_profile)
    report = found.pop("report")
    assert report["dropped_fixture"] == 1
    assert not [name for name in found if "fixtures" in name]
    assert not [row for row in found.values() if "Foreign" in learned(row)]
    merge = next(c for c in merged_story.commits if c["is_merge"])
    about = found[f"commit/{merge['sha']}"]
    assert learned(about).startswith("Rules of the house\n\nOwners asked for limits")
    assert "Teach the ledger rule 1" in learned(about)
    assert "- app/ledger.py" in learned(about)
    # It brought a validation commit, so it is on that side.
    brought = [c["sha"] for c in merged_story.commits[1:5]]
    sides = {found[f"commit/{sha}"]["split"] for sha in brought if f"commit/{sha}" in found}
    assert about["split"] == ("validation" if "validation" in sides else "train")

    files = [row for name, row in found.items() if name.startswith("commit-files/")]
    assert files
    for row in files:
        shown = row["segments"][0]["text"]
        assert shown.startswith("One commit to this project.\nMessage: ")
        assert learned(row) in {"- app/io.py\n", "- app/ledger.py\n"}
        assert learned(row) not in shown
        assert row["split"] == "train"
    messages = [row for name, row in found.items() if name.startswith("commit-message/")]
    assert all(row["segments"][0]["text"].endswith("Its commit message:") for row in messages)
    assert "@@" not in messages[0]["segments"][0]["text"]


def test_new_code_is_tied_to_the_file_that_it_was_added_to() -> None:
    grown = "".join(f"+    total += ledger.fees[{n}] * rates[{n}]\n" for n in range(6))
    added = (
        f"@@ -9,2 +9,10 @@\n     return x\n \n+def fees(ledger, rates):\n+    total = 0\n{grown}"
    )
    replaced = f"@@ -1,2 +1,9 @@\n-def fees(ledger):\n+def fees(ledger, rates):\n{grown}"
    changes = [
        FileChange("app/fees.py", None, "M", added),
        FileChange("app/old.py", None, "M", replaced),
        FileChange("app/gone.py", None, "M", added),
        FileChange("app/new.py", None, "A", added),
    ]
    existing = frozenset({"app/fees.py", "app/old.py", "app/new.py"})
    found = [
        draft
        for draft in commit_completion_pairs(a_commit("x"), changes, existing, "own", seed=1)
        if draft.document_id.startswith("code-file/")
    ]
    [(shown, learned_part)] = [draft.segments for draft in found]
    assert shown.text.startswith("New code in own:\n\ndef fees(ledger, rates):\n    total = 0\n")
    assert shown.text.endswith("rates[5]\n\nIt was added to the file")
    assert (learned_part.text, learned_part.train, shown.train) == (" app/fees.py\n", True, False)


def test_the_message_of_a_sweep_is_not_told_of_one_patch() -> None:
    patch = "@@ -1 +1 @@\n" + "".join(f"+line {n} of the change\n" for n in range(9))
    for n_files, n_told in ((8, 2), (9, 0)):
        changes = [FileChange(f"app/{n}.py", None, "M", patch) for n in range(n_files)]
        found = commit_completion_pairs(a_commit("Add fees"), changes, frozenset(), "own", seed=1)
        assert len([d for d in found if d.document_id.startswith("commit-message/")]) == n_told


def test_the_same_end_of_two_texts_is_no_duplicate(
    story: Any, tmp_path: Path, smollm2_profile: ModelProfile
) -> None:
    for number in range(14):
        text = "".join(f"value_{n} = {number * 31 + n * n}  # of {number}\n" for n in range(12))
        story.commit(f"Add part {number} of the tables", {f"app/part{number}.py": text})
    found = documents_of(story, tmp_path, smollm2_profile)
    assert len([name for name in found if name.startswith("file-folder/app/")]) == 4


def test_nothing_of_validation_or_later_is_in_an_association(
    merged_story: Any, tmp_path: Path, smollm2_profile: ModelProfile
) -> None:
    found = documents_of(merged_story, tmp_path, smollm2_profile)
    found.pop("report")
    later = {
        row["source"] for row in found.values() if row["kind"] == "commit" and
        row["split"] != "train"
    }  # fmt: skip
    assert later
    kinds = ("commit-files/", "commit-message/", "code-file/", "chat/history/", "chat/together/")
    for name, row in found.items():
        if name.startswith(kinds):
            assert row["split"] == "train"
            assert row["source"] not in later
            assert not [sha for sha in later if sha[:8] in learned(row)]


def test_files_come_folder_by_folder_and_what_is_used_before_what_uses_it() -> None:
    paths = ["a.py", "p/a.py", "p/b.py", "p/c.py", "p/q/x.py", "p/q/y.py", "p/z.py", "r/a.py"]
    files = [SourceFile(path, "Python", "") for path in paths]
    depends_on = {
        "p/a.py": ["p/z.py", "a.py", "p/b.py"],
        "p/b.py": ["p/c.py"],
        "p/c.py": ["p/a.py"],  # in a ring
        "p/q/x.py": ["p/q/y.py", "p/a.py"],
    }
    assert [file.path for file in dependencies_first(files, depends_on)] == [
        "p/q/y.py", "p/q/x.py", "p/z.py", "p/c.py", "p/b.py", "p/a.py", "r/a.py", "a.py",
    ]  # fmt: skip
    assert list(dependencies_first([], {})) == []
