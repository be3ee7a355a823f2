import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from transformers import PreTrainedTokenizerFast

from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.errors import ParameterError, StaleDataError, TooLittleDataError
from the_block_llm.models.profiles import ModelProfile, ModelProfiles
from the_block_llm.pipelines.sequence_build import nodes
from the_block_llm.pipelines.sequence_build.params import SequenceBuildParams
from the_block_llm.schemas import COMMITS, DOCUMENTS, FILE_CHANGES, ROWS, SNAPSHOT_FILES


class Run:
    """All nodes of the pipeline, run in order with tables on disk."""

    def __init__(self, folder: Path, tables: Any, profile: ModelProfile, **params: Any) -> None:
        self.params = SequenceBuildParams.model_validate(params)
        choices = (ModelProfiles({"m": profile}), "m", self.params)
        inputs = (tables.repository, tables.commits, tables.file_changes, tables.snapshot_files)
        self.screening = nodes.screen_documents(*inputs, *choices)
        self.documents = save_table(
            folder / "documents", DOCUMENTS,
            nodes.render_documents(*inputs, self.screening, *choices),
        )  # fmt: skip
        self.row_facts = nodes.describe_rows(*choices)
        packers = (nodes.pack_train, nodes.pack_validation, nodes.pack_held_out)
        self.rows: dict[str, ParquetTable] = {
            node.__name__.removeprefix("pack_"): save_table(
                folder / node.__name__, ROWS, node(self.documents, *choices)
            )
            for node in packers
        }
        self.report = nodes.report_sequences(
            tables.repository, tables.commits, self.documents, self.screening,
            self.row_facts, *self.rows.values(), *choices,
        )  # fmt: skip

    def bytes_on_disk(self) -> list[bytes]:
        tables = (self.documents, *self.rows.values())
        return [part.read_bytes() for table in tables for part in table.parts]


def test_short_history_has_rows_in_all_three_splits(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    run = Run(tmp_path, long_story.tables(tmp_path, 0.85), smollm2_profile)
    assert all(table.num_rows > 0 for table in run.rows.values())
    kinds = {(row["split"], row["kind"]) for row in run.documents.rows(["split", "kind"])}
    assert kinds >= {("train", "file"), ("train", "commit"), ("train", "chat")}
    assert kinds >= {("held_out", "commit"), ("held_out", "chat"), ("validation", "commit")}
    assert run.report["train_rows"] == run.rows["train"].num_rows
    assert run.report["truncated_documents"] == 0
    short = [row for row in run.rows["train"].rows(["n_tokens"]) if row["n_tokens"] < 0.99 * 256]
    assert run.report["train_rows_under_99_percent"] == len(short)
    assert run.report["train_Python_file_tokens"] == run.report["train_file_tokens"]
    steps = -(-run.report["train_rows"] // 8)
    # So little text never reaches 50 million tokens: the maximum epochs of the profile apply.
    assert (run.report["expected_epochs"], run.report["expected_steps"]) == (12, 12 * steps)
    assert any("little training data" in warning for warning in run.report["warnings"])
    assert any("are of the kind 'feature'" in warning for warning in run.report["warnings"])
    json.dumps(run.report, allow_nan=False)


def test_report_lists_removed_leaks_with_the_matching_document(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    text = long_story.trees[0]["pkg/part0.py"]
    long_story.commit("Start a package of its own", {"own/part0.py": text})
    run = Run(tmp_path, long_story.tables(tmp_path, 0.85), smollm2_profile)
    removed = {leak["document_id"]: leak for leak in run.report["leaks_removed"]}
    copy = removed["file-after-cutoff/own/part0.py"]
    assert (copy["source"], copy["split"]) == ("own/part0.py", "held_out")
    assert copy["reason"] in {"exact_duplicate", "known_lines"}
    assert copy["nearest"] in {row["document_id"] for row in run.documents.rows(["document_id"])}
    counts = [n for key, n in run.report.items() if "_leaks_removed_" in key]
    assert sum(counts) == len(removed)


def test_every_target_token_is_in_exactly_one_row(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    run = Run(tmp_path, long_story.tables(tmp_path, 0.85), smollm2_profile)
    for split, table in run.rows.items():
        targets: dict[str, list[int]] = {}
        for row in table.rows():
            assert len(row["input_ids"]) == sum(row["segment_lengths"]) == row["n_tokens"] <= 256
            start = 0
            for length, document_id in zip(
                row["segment_lengths"], row["document_ids"], strict=True
            ):
                ids = row["input_ids"][start : start + length]
                mask = row["labels_mask"][start : start + length]
                assert not mask[0]
                targets.setdefault(document_id, []).extend(
                    id_ for id_, target in zip(ids, mask, strict=True) if target
                )
                start += length
        wanted = {
            row["document_id"]: [
                id_ for id_, t in zip(row["input_ids"], row["labels_mask"], strict=True) if t
            ]
            for row in run.documents.rows()
            # A chat is never split; one longer than a row is left out.
            if row["split"] == split and not (row["kind"] == "chat" and row["n_tokens"] > 256)
        }
        # Chunks of a document may be in any order.
        assert {name: sorted(ids) for name, ids in targets.items()} == {
            name: sorted(ids) for name, ids in wanted.items()
        }


def test_target_tokens_decode_to_the_target_segments(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile, smollm2: PreTrainedTokenizerFast
) -> None:
    run = Run(tmp_path, long_story.tables(tmp_path, 0.85), smollm2_profile)
    specials = set(smollm2.all_special_ids)
    for row in run.documents.rows():
        targets = [
            id_
            for id_, target in zip(row["input_ids"], row["labels_mask"], strict=True)
            if target and id_ not in specials
        ]
        text = "".join(segment["text"] for segment in row["segments"] if segment["train"])
        assert smollm2.decode(targets, clean_up_tokenization_spaces=False) == text


def test_output_is_deterministic(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    tables = long_story.tables(tmp_path, 0.85)
    first = Run(tmp_path / "first", tables, smollm2_profile)
    second = Run(tmp_path / "second", tables, smollm2_profile)
    assert first.bytes_on_disk() == second.bytes_on_disk()


def test_tables_of_another_cutoff_are_an_error(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    with pytest.raises(StaleDataError, match=r"0\.85.*0\.5.*git_ingest"):
        Run(tmp_path, long_story.tables(tmp_path, 0.85), smollm2_profile, cutoff=0.5)


def test_one_commit_is_an_error(tmp_path: Path, story: Any, smollm2_profile: ModelProfile) -> None:
    story.commit("Start", {"a.py": "x = 1\n"})
    with pytest.raises(TooLittleDataError, match="There are 1 commits"):
        Run(tmp_path, story.tables(tmp_path, 0.85), smollm2_profile)


def test_without_cutoff_the_report_warns_that_nothing_is_held_out(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    run = Run(tmp_path, long_story.tables(tmp_path, None), smollm2_profile, cutoff=None)
    assert run.rows["held_out"].num_rows == 0
    assert run.rows["train"].num_rows > 0
    assert run.report["can_be_evaluated_on_held_out"] is False
    assert any("cutoff: null" in warning for warning in run.report["warnings"])


def test_completion_model_gets_no_chats(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    completion = smollm2_profile.model_copy(update={"role": "completion"})
    run = Run(tmp_path, long_story.tables(tmp_path, 0.85), completion, fim_share=0)
    assert {row["kind"] for row in run.documents.rows(["kind"])} == {"file", "commit"}


def test_tables_have_their_schemas(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    run = Run(tmp_path, long_story.tables(tmp_path, 0.85), smollm2_profile)
    assert isinstance(run.documents.table(), pa.Table)
    assert run.documents.schema.equals(DOCUMENTS)
    assert all(table.schema.equals(ROWS) for table in run.rows.values())


def test_held_out_lines_are_not_in_training_or_validation(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile, smollm2: PreTrainedTokenizerFast
) -> None:
    run = Run(tmp_path, long_story.tables(tmp_path, 0.85), smollm2_profile)
    ids_by_split = {name: set() for name in run.rows}
    seen = ""
    for name, table in run.rows.items():
        for row in table.rows(["input_ids", "document_ids"]):
            ids_by_split[name].update(row["document_ids"])
            if name != "held_out":
                seen += smollm2.decode(row["input_ids"])
    assert not ids_by_split["held_out"] & (ids_by_split["train"] | ids_by_split["validation"])
    assert not ids_by_split["train"] & ids_by_split["validation"]
    # The cutoff is commit 9: lines that later commits added must not appear.
    before = set("".join(long_story.trees[9].values()).splitlines())
    added = set("".join(long_story.trees[-1].values()).splitlines()) - before
    assert len(added) > 5
    assert not [line for line in added if line.strip() and line in seen]


def test_lines_added_by_validation_commits_are_not_training_targets(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile, smollm2: PreTrainedTokenizerFast
) -> None:
    run = Run(tmp_path, long_story.tables(tmp_path, 0.85), smollm2_profile)
    targets = "".join(
        segment["text"]
        for row in run.documents.rows(["split", "segments"])
        for segment in row["segments"]
        if row["split"] == "train" and segment["train"]
    )
    validated = {
        row["source"]
        for row in run.documents.rows(["split", "kind", "source"])
        if (row["split"], row["kind"]) == ("validation", "commit")
    }
    [number] = [n for n, c in enumerate(long_story.commits) if c["sha"] in validated]
    before = set("".join(long_story.trees[number - 1].values()).splitlines())
    added = set("".join(long_story.trees[number].values()).splitlines()) - before
    names = [line for line in added if line.startswith("def ")]
    assert names
    assert not [line for line in names if line in targets]


def test_plots_show_every_kind_and_split(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    run = Run(tmp_path, long_story.tables(tmp_path, 0.85), smollm2_profile)
    mix, rows = nodes.plot_sequences(run.report, *run.rows.values())
    bars = {
        container.get_label(): [bar.get_width() for bar in container]
        for container in mix.axes[0].containers
    }
    assert bars["chat"][0] * 1e6 == pytest.approx(run.report["train_chat_tokens"])
    assert set(bars) == {"file", "commit", "chat"}
    labels = [text.get_text() for text in rows.axes[0].get_legend().get_texts()]
    assert labels[0] == f"train: {run.report['train_fill_percent']} % full"


def test_empty_split_can_be_plotted(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    run = Run(tmp_path, long_story.tables(tmp_path, None), smollm2_profile, cutoff=None)
    _, rows = nodes.plot_sequences(run.report, *run.rows.values())
    assert len(rows.axes[0].get_legend().get_texts()) == 2


def two_repositories(folder: Path, long_story: Any) -> Any:
    """Two repositories with the same paths but different commits and texts."""
    one = long_story.tables(folder / "one", 0.85)
    facts = {**one.repository, "name": "story", "n_commits": 12}
    other = {**facts, "name": "other", "head": "f" * 40}
    other["cutoff"] = {**facts["cutoff"], "sha": "e" * 40}

    def both(table: ParquetTable, schema: pa.Schema, change: Any) -> ParquetTable:
        rows = list(table.rows())
        again = [{**row, "repo": "other", **change(row)} for row in rows]
        batch = pa.RecordBatch.from_pylist(rows + again, schema)
        return save_table(folder / "both" / table.folder.name, schema, [batch])

    def sha(row: Any) -> dict[str, str]:
        return {"sha": row["sha"][::-1]}

    def of_tree(row: Any) -> dict[str, str]:
        at_cutoff = row["sha"] == facts["cutoff"]["sha"]
        return {
            "sha": "e" * 40 if at_cutoff else "f" * 40,
            "text": row["text"].upper() + f"# the other {row['path']}\n",
        }

    one.repository = {**facts, "repositories": [facts, other]}
    one.commits = both(
        one.commits, COMMITS, lambda row: {**sha(row), "subject": f"{row['subject']} X"}
    )
    one.file_changes = both(
        one.file_changes,
        FILE_CHANGES,
        lambda row: {**sha(row), "patch": (row["patch"] or "").upper()},
    )
    one.snapshot_files = both(one.snapshot_files, SNAPSHOT_FILES, of_tree)
    return one


def test_paths_of_two_repositories_are_prefixed(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    run = Run(tmp_path, two_repositories(tmp_path, long_story), smollm2_profile)
    files = {
        row["source"]: "".join(segment["text"] for segment in row["segments"])
        for row in run.documents.rows(["kind", "source", "segments", "document_id"])
        if row["document_id"].startswith("file/")
    }
    assert {path.split("/")[0] for path in files} == {"story", "other"}
    assert "# the other pkg/part0.py" in files["other/pkg/part0.py"]
    assert "# the other" not in files["story/pkg/part0.py"]
    ids = [row["document_id"] for row in run.documents.rows(["document_id"])]
    assert len(ids) == len(set(ids))


def test_only_repository_equals_a_corpus_of_that_repository(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    tables = two_repositories(tmp_path, long_story)
    chosen = Run(tmp_path / "chosen", tables, smollm2_profile, only_repository="story")
    by_itself = long_story.tables(tmp_path, 0.85)
    by_itself.repository["name"] = "story"
    alone = Run(tmp_path / "alone", by_itself, smollm2_profile)
    assert list(chosen.documents.rows()) == list(alone.documents.rows())
    assert chosen.report == alone.report
    with pytest.raises(ParameterError, match="'nowhere' is none of the 2.*story, other"):
        Run(tmp_path / "none", tables, smollm2_profile, only_repository="nowhere")


def test_commits_shared_with_a_fork_are_rendered_once(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    origin = long_story.tables(tmp_path / "origin", 0.85)
    facts = {**origin.repository, "name": "story", "n_commits": 12}
    fork = {**facts, "name": "fork"}

    def both(table: ParquetTable, schema: pa.Schema) -> ParquetTable:
        rows = list(table.rows())
        rows += [{**row, "repo": "fork"} for row in rows]
        batch = pa.RecordBatch.from_pylist(rows, schema)
        return save_table(tmp_path / "both" / table.folder.name, schema, [batch])

    origin.repository = {**facts, "repositories": [facts, fork]}
    origin.commits = both(origin.commits, COMMITS)
    origin.file_changes = both(origin.file_changes, FILE_CHANGES)
    origin.snapshot_files = both(origin.snapshot_files, SNAPSHOT_FILES)
    run = Run(tmp_path, origin, smollm2_profile)
    commit_documents = [
        (row["document_id"], row["source"])
        for row in run.documents.rows(["document_id", "kind", "source"])
        if row["kind"] == "commit"
    ]
    assert len(commit_documents) == len({document_id for document_id, _ in commit_documents})
    assert len({sha for _, sha in commit_documents}) == 12
    # Unchanged files of the fork are duplicates.
    assert run.report["train_duplicates_removed_documents"] > 0
    targets = [
        row["source"].split("/")[0]
        for row in run.documents.rows(["document_id", "split", "source"])
        if row["document_id"].startswith("file/") and row["split"] == "train"
    ]
    assert set(targets) == {"story"}
    # Held-out files of the fork are duplicates, too.
    assert run.report["held_out_duplicates_removed_documents"] > 0
    held_out_files = [
        (row["document_id"], row["source"].split("/")[0])
        for row in run.documents.rows(["document_id", "split", "source", "kind"])
        if row["split"] == "held_out" and row["kind"] == "file"
    ]
    assert {repository for _, repository in held_out_files} == {"story"}


def test_documents_do_not_depend_on_the_batching_of_repositories(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    from the_block_llm.pipelines.sequence_build.documents import repository_batches

    tables = two_repositories(tmp_path, long_story)
    together = Run(tmp_path / "together", tables, smollm2_profile)
    monkeypatch.setattr(repository_batches, "_COMMITS_PER_BATCH", 1)
    apart = Run(tmp_path / "apart", tables, smollm2_profile, work_folder=str(tmp_path / "work"))
    assert (len(together.documents.parts), len(apart.documents.parts)) == (1, 2)
    assert list(apart.documents.rows()) == list(together.documents.rows())
    assert not list((tmp_path / "work").iterdir())
