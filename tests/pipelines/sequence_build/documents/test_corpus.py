"""Documents of a repository, rendered through the pipeline."""

from pathlib import Path
from typing import Any

import pytest

from the_block_llm.models.profiles import ModelProfile


@pytest.fixture
def story_with_merge(story: Any) -> Any:
    """A branch merged before the cutoff, with a description that no commit repeats."""
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


def render(story: Any, folder: Path, profile: ModelProfile) -> tuple[dict[str, Any], Any]:
    """Run the pipeline; return the rows of ``documents`` by id, and the report."""
    from tests.pipelines.sequence_build.test_nodes import Run

    run = Run(folder, story.tables(folder, 0.85), profile)
    return {row["document_id"]: row for row in run.documents.rows()}, run.report


def target_text(row: dict[str, Any]) -> str:
    return "".join(s["text"] for s in row["segments"] if s["train"])


def test_fixtures_are_left_out_and_counted(
    story_with_merge: Any, tmp_path: Path, smollm2_profile: ModelProfile
) -> None:
    documents, report = render(story_with_merge, tmp_path, smollm2_profile)
    assert report["dropped_fixture"] == 1
    assert not [document_id for document_id in documents if "fixtures" in document_id]
    assert not [row for row in documents.values() if "Foreign" in target_text(row)]


def test_merge_has_its_message_and_the_latest_split_of_the_merged_commits(
    story_with_merge: Any, tmp_path: Path, smollm2_profile: ModelProfile
) -> None:
    documents, _ = render(story_with_merge, tmp_path, smollm2_profile)
    merge = next(c for c in story_with_merge.commits if c["is_merge"])
    document = documents[f"commit/{merge['sha']}"]
    assert target_text(document).startswith("Rules of the house\n\nOwners asked for limits")
    assert "Teach the ledger rule 1" in target_text(document)
    assert "- app/ledger.py" in target_text(document)
    # One of the merged commits is in validation, so the merge is too.
    merged = [c["sha"] for c in story_with_merge.commits[1:5]]
    splits = {documents[f"commit/{sha}"]["split"] for sha in merged if f"commit/{sha}" in documents}
    assert document["split"] == ("validation" if "validation" in splits else "train")


def test_completion_pairs_of_training_commits(
    story_with_merge: Any, tmp_path: Path, smollm2_profile: ModelProfile
) -> None:
    documents, _ = render(story_with_merge, tmp_path, smollm2_profile)
    pairs = [row for name, row in documents.items() if name.startswith("commit-files/")]
    assert pairs
    for row in pairs:
        context = row["segments"][0]["text"]
        assert context.startswith("One commit to this project.\nMessage: ")
        assert target_text(row) in {"- app/io.py\n", "- app/ledger.py\n"}
        assert target_text(row) not in context
        assert row["split"] == "train"
    messages = [row for name, row in documents.items() if name.startswith("commit-message/")]
    assert all(row["segments"][0]["text"].endswith("Its commit message:") for row in messages)
    assert "@@" not in messages[0]["segments"][0]["text"]


def test_completion_pairs_with_equal_targets_are_no_duplicates(
    story: Any, tmp_path: Path, smollm2_profile: ModelProfile
) -> None:
    for number in range(14):
        text = "".join(f"value_{n} = {number * 31 + n * n}  # of {number}\n" for n in range(12))
        story.commit(f"Add part {number} of the tables", {f"app/part{number}.py": text})
    documents, _ = render(story, tmp_path, smollm2_profile)
    assert len([name for name in documents if name.startswith("file-folder/app/")]) == 4


def test_completion_pairs_and_file_histories_contain_no_later_commits(
    story_with_merge: Any, tmp_path: Path, smollm2_profile: ModelProfile
) -> None:
    documents, _ = render(story_with_merge, tmp_path, smollm2_profile)
    later = {
        row["source"]
        for row in documents.values()
        if row["kind"] == "commit" and row["split"] != "train"
    }
    assert later
    prefixes = (
        "commit-files/", "commit-message/", "code-file/", "chat/history/", "chat/together/",
    )  # fmt: skip
    for document_id, row in documents.items():
        if document_id.startswith(prefixes):
            assert row["split"] == "train"
            assert row["source"] not in later
            assert not [sha for sha in later if sha[:8] in target_text(row)]
