from tests.builders.documents import make_commit

from the_block_llm.pipelines.sequence_build.documents.commits import FileChange
from the_block_llm.pipelines.sequence_build.documents.completion_pairs import (
    commit_completion_pairs,
)


def test_added_definition_is_paired_with_the_path_of_its_file() -> None:
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
        document
        for document in commit_completion_pairs(make_commit("x"), changes, existing, "own", seed=1)
        if document.document_id.startswith("code-file/")
    ]
    [(context, target)] = [document.segments for document in found]
    assert context.text.startswith("New code in own:\n\ndef fees(ledger, rates):\n    total = 0\n")
    assert context.text.endswith("rates[5]\n\nIt was added to the file")
    assert (target.text, target.train, context.train) == (" app/fees.py\n", True, False)


def test_message_of_a_sweeping_change_is_not_paired_with_a_patch() -> None:
    patch = "@@ -1 +1 @@\n" + "".join(f"+line {n} of the change\n" for n in range(9))
    for n_files, n_pairs in ((8, 2), (9, 0)):
        changes = [FileChange(f"app/{n}.py", None, "M", patch) for n in range(n_files)]
        found = commit_completion_pairs(
            make_commit("Add fees"), changes, frozenset(), "own", seed=1
        )
        assert len([d for d in found if d.document_id.startswith("commit-message/")]) == n_pairs
