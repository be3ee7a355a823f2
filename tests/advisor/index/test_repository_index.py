import json
import os
import shutil
from contextlib import suppress

import pytest
from tests.builders.advised_repository import FILES, HEAD, SHAS, write_tables
from tests.builders.damaged_json import damaged

from the_block_llm.advisor.index import repository_index
from the_block_llm.advisor.index.repository_index import open_index
from the_block_llm.errors import StaleDataError, StorageError, TableError


@pytest.fixture
def index_arguments(tmp_path):
    write_tables(tmp_path)
    return (
        tmp_path / "02_intermediate", tmp_path / "01_raw/repository.json", tmp_path / "index", 200
    )  # fmt: skip


def test_search_finds_head_files_and_commits(index_arguments):
    index = open_index(*index_arguments)
    passages = index.search("Who tallies votes in consensus?", 5)
    assert {p.source for p in passages} >= {"src/consensus.rs", SHAS[1]}
    assert index.search("gone", 5) == [], "only the snapshot of the head is indexed"
    assert index.file_text("src/ledger.rs") == FILES["src/ledger.rs"]
    commit = index.commit(SHAS[0])
    assert commit.message == "Start the ledger\n\nBecause."
    assert commit.paths == ("src/ledger.rs",)
    assert commit.committed_at.startswith("2026-01-01T01:00:00")


def test_passages_match_their_line_numbers(index_arguments):
    index = open_index(*index_arguments)
    for passage in index.search("ledger block consensus votes guide", 10):
        if passage.first_line is not None:
            lines = FILES[passage.source].split("\n")[passage.first_line - 1 : passage.last_line]
            assert "\n".join(lines) == passage.text.removesuffix("\n")


def test_index_is_built_once_per_state_of_the_tables(index_arguments, monkeypatch):
    first = open_index(*index_arguments)
    with monkeypatch.context() as patched:
        patched.setattr(repository_index, "_build_index", lambda *_: pytest.fail("built again"))
        assert open_index(*index_arguments).fingerprint == first.fingerprint
    write_tables(index_arguments[0].parent, {"src/new.rs": "fn brand_new() {}\n"})
    second = open_index(*index_arguments)
    assert second.fingerprint != first.fingerprint
    assert [p.source for p in second.search("brand new", 1)] == ["src/new.rs"]
    assert [p.name for p in index_arguments[2].iterdir()] == [second.fingerprint], (
        "the outdated index is removed"
    )
    # A reader of the outdated index can still use it.
    assert first.file_text("src/ledger.rs") == FILES["src/ledger.rs"]
    assert first.search("tally votes", 1)


def test_failed_build_leaves_no_files(index_arguments, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(repository_index, "_write", fail)
        with pytest.raises(StorageError, match="No space left"):
            open_index(*index_arguments)
    assert list(index_arguments[2].iterdir()) == []
    assert open_index(*index_arguments).search("votes", 1)


def test_missing_tables_error_names_the_command(index_arguments):
    shutil.rmtree(index_arguments[0] / "commits")
    with pytest.raises(TableError, match="kedro run --pipeline=git_ingest"):
        open_index(*index_arguments)


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "/etc/passwd", "src/../src/ledger.rs", "", "src", "..", "\x00"]
)
def test_only_exact_paths_are_found(index_arguments, path, monkeypatch):
    index = open_index(*index_arguments)
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened a file"))
    assert index.file_text(path) is None
    assert index.commit(path) is None


def test_paths_of_several_repositories_are_qualified(index_arguments):
    description = json.loads(index_arguments[1].read_text())
    description["repositories"].append({"name": "other", "head": "f" * 40})
    index_arguments[1].write_text(json.dumps(description))
    index = open_index(*index_arguments)
    assert index.file_text("chain/src/ledger.rs") == FILES["src/ledger.rs"]
    assert index.project == "chain and other"


def test_repository_without_text_is_indexed(index_arguments):
    write_tables(index_arguments[0].parent, {"empty.rs": " \n"})
    index = open_index(*index_arguments)
    assert index.known_names.matching_paths("empty.rs") == ["empty.rs"]


@pytest.mark.parametrize("name", ["index.json", "files.arrow", "passages.arrow", "commits.arrow"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\0" * 512])
def test_a_damaged_index_is_built_again(index_arguments, name, content):
    folder = open_index(*index_arguments).folder
    (folder / name).write_bytes(content)
    index = open_index(*index_arguments)
    assert index.project == "chain"
    assert index.commit(SHAS[0]).message.startswith("Start the ledger")
    assert {p.source for p in index.search("tallies votes", 5)} >= {"src/consensus.rs"}


@pytest.mark.parametrize("name", ["source_digest", "library_versions"])
def test_other_code_or_libraries_build_another_index(index_arguments, monkeypatch, name):
    first = open_index(*index_arguments).fingerprint
    assert open_index(*index_arguments).fingerprint == first
    monkeypatch.setattr(repository_index, name, lambda _: "another")
    assert open_index(*index_arguments).fingerprint != first


def test_a_repository_file_of_another_version_is_an_error(index_arguments):
    for stored in damaged({"repositories": [{"name": "chain", "head": HEAD}]}):
        index_arguments[1].write_text(json.dumps(stored))
        with suppress(StaleDataError):
            open_index(*index_arguments)
    index_arguments[1].write_text(json.dumps({"name": "chain"}))
    with pytest.raises(StaleDataError, match=r"The dataset repository .*git_ingest"):
        open_index(*index_arguments)
