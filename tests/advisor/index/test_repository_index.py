import json
import os
import shutil

import pytest
from tests.builders.advised_repository import FILES, SHAS, write_tables

from the_block_llm.advisor.index import repository_index
from the_block_llm.advisor.index.repository_index import open_index
from the_block_llm.errors import StorageError, TableError


@pytest.fixture
def where(tmp_path):
    write_tables(tmp_path)
    return (
        tmp_path / "02_intermediate", tmp_path / "01_raw/repository.json", tmp_path / "index", 200
    )  # fmt: skip


def test_files_of_the_head_and_commits_are_found(where):
    index = open_index(*where)
    found = index.search("Who tallies votes in consensus?", 5)
    assert {p.source for p in found} >= {"src/consensus.rs", SHAS[1]}
    assert index.search("gone", 5) == [], "the tree at the cut-off is not the repository today"
    assert index.file_text("src/ledger.rs") == FILES["src/ledger.rs"]
    commit = index.commit(SHAS[0])
    assert commit.message == "Start the ledger\n\nBecause."
    assert commit.paths == ("src/ledger.rs",)
    assert commit.committed_at.startswith("2026-01-01T01:00:00")


def test_passages_stand_on_the_lines_they_name(where):
    index = open_index(*where)
    for passage in index.search("ledger block consensus votes guide", 10):
        if passage.first_line is not None:
            lines = FILES[passage.source].split("\n")[passage.first_line - 1 : passage.last_line]
            assert "\n".join(lines) == passage.text.removesuffix("\n")


def test_it_is_built_once_and_again_when_a_table_changes(where, monkeypatch):
    first = open_index(*where)
    with monkeypatch.context() as patched:
        patched.setattr(repository_index, "_build_index", lambda *_: pytest.fail("built again"))
        assert open_index(*where).fingerprint == first.fingerprint
    write_tables(where[0].parent, {"src/new.rs": "fn brand_new() {}\n"})
    second = open_index(*where)
    assert second.fingerprint != first.fingerprint
    assert [p.source for p in second.search("brand new", 1)] == ["src/new.rs"]
    assert [p.name for p in where[2].iterdir()] == [second.fingerprint], "the old one is gone"
    # A reader of the old one keeps what it has open.
    assert first.file_text("src/ledger.rs") == FILES["src/ledger.rs"]
    assert first.search("tally votes", 1)


def test_a_build_that_dies_leaves_nothing(where, monkeypatch):
    def die(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(repository_index, "_write", die)
        with pytest.raises(StorageError, match="No space left"):
            open_index(*where)
    assert list(where[2].iterdir()) == []
    assert open_index(*where).search("votes", 1)


def test_before_git_ingest_it_says_what_to_run(where):
    shutil.rmtree(where[0] / "commits")
    with pytest.raises(TableError, match="kedro run --pipeline=git_ingest"):
        open_index(*where)


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "/etc/passwd", "src/../src/ledger.rs", "", "src", "..", "\x00"]
)
def test_only_exact_paths_of_the_repository_are_read(where, path, monkeypatch):
    index = open_index(*where)
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened a file"))
    assert index.file_text(path) is None
    assert index.commit(path) is None


def test_two_repositories_are_kept_apart(where):
    description = json.loads(where[1].read_text())
    description["repositories"].append({"name": "other", "head": "f" * 40})
    where[1].write_text(json.dumps(description))
    index = open_index(*where)
    assert index.file_text("chain/src/ledger.rs") == FILES["src/ledger.rs"]
    assert index.project == "chain and other"


def test_a_repository_without_text_has_an_index_too(where):
    write_tables(where[0].parent, {"empty.rs": " \n"})
    index = open_index(*where)
    assert index.known_names.paths("empty.rs") == ["empty.rs"]
