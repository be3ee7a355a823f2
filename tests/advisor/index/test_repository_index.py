import gc
import os
import random
import shutil
from contextlib import suppress

import pytest
from tests.builders.advised_repository import FILES, HEAD, SHAS, write_tables
from tests.builders.damage import FAULTS, damage_file, damaged
from tests.builders.processes import Script, running
from tests.builders.project import ROOT

from the_block_llm.advisor.index import repository_index
from the_block_llm.advisor.index.repository_index import open_index
from the_block_llm.datasets.report_files import read_report, write_report
from the_block_llm.errors import StaleDataError, StorageError, TableError, TableReplacedError


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
    # A reader of the outdated index can still use it, though nobody opens it any more.
    assert first.file_text("src/ledger.rs") == FILES["src/ledger.rs"]
    assert first.search("tally votes", 1)
    assert [path.parent.name for path in index_arguments[2].glob("*/index.json")] == [
        second.fingerprint
    ]
    outdated = first.folder
    del first
    gc.collect()
    write_tables(index_arguments[0].parent, {"src/newer.rs": "fn newest() {}\n"})
    open_index(*index_arguments)
    assert not outdated.exists(), "it is removed once nobody reads it"


# Replaces the tables again and again, as runs of git_ingest do; one generation has one file name.
REPLACE = """
    import sys
    from pathlib import Path
    from tests.builders.advised_repository import write_tables
    for n in range(2, 14):
        files = {f"src/part{i}_of_{n}.rs": f"fn of_{n}() {{}}\\n" for i in range(3)}
        write_tables(Path(sys.argv[1]), files, f"{n:040x}", f"2026-02-{n:02d}T00:00:00+00:00")
        print("replaced", flush=True)
    print("done", flush=True)
"""


def test_an_index_never_mixes_the_tables_of_two_runs(index_arguments, tmp_path):
    write_tables(tmp_path, {f"src/part{i}_of_1.rs": "fn of_1() {}\n" for i in range(3)})
    open_index(*index_arguments)
    writer = Script(REPLACE, tmp_path, cwd=ROOT)
    seen = set()
    with running(writer):
        writer.wait_for("replaced")
        while writer.is_running:
            index = open_index(*index_arguments)
            paths = sorted(index.known_names.line_counts)
            [generation] = {path.rpartition("_")[2] for path in paths}
            assert len(paths) == 3
            seen.add(generation)
        writer.finish()
    assert len(seen) > 1
    assert "src/part0_of_13.rs" in open_index(*index_arguments).known_names.line_counts


BUILD = """
    import sys
    from pathlib import Path
    from the_block_llm.advisor.index import repository_index
    folder = Path(sys.argv[1])
    build = repository_index._build_index
    def build_and_tell(*values):
        print("built", flush=True)
        build(*values)
    repository_index._build_index = build_and_tell
    index = repository_index.open_index(
        folder / "02_intermediate", folder / "01_raw/repository.json", folder / "index", 200
    )
    assert index.search("tally votes", 1)
"""


def test_one_of_several_processes_builds_the_index(index_arguments, tmp_path):
    readers = [Script(BUILD, tmp_path) for _ in range(4)]
    with running(*readers):
        assert sum(reader.finish().count("built") for reader in readers) == 1


def begin_a_run(tables, repository_file):
    """Write what git_ingest writes first."""
    description = read_report(repository_file)
    description["pinned_at"] = "2026-03-01T00:00:00+00:00"
    description["repositories"][0]["head"] = "f" * 40
    write_report(repository_file, description)


def test_while_tables_are_replaced_the_index_before_is_searched(index_arguments, caplog):
    before = open_index(*index_arguments)
    begin_a_run(*index_arguments[:2])
    during = open_index(*index_arguments)
    assert during.fingerprint == before.fingerprint
    assert during.search("tally votes", 1)
    assert "began at 2026-03-01T00:00:00+00:00 still runs or was stopped" in caplog.text
    assert "come from the index of" in caplog.text


def test_without_an_index_before_an_unfinished_ingest_is_an_error(index_arguments):
    begin_a_run(*index_arguments[:2])
    with pytest.raises(TableReplacedError, match=r"kedro run --pipeline=git_ingest.*--no-retr"):
        open_index(*index_arguments)


def test_an_index_that_another_host_reads_is_kept(index_arguments, tmp_path):
    first = open_index(*index_arguments).folder
    reader = Script(
        """
        import platform, sys
        from pathlib import Path
        platform.node = lambda: "node7"
        from the_block_llm.locks.leases import lease
        with lease(Path(sys.argv[1])):
            print("reads", flush=True)
            sys.stdin.readline()
        """,
        first,
    )
    gc.collect()
    with running(reader):
        reader.wait_for("reads")
        write_tables(tmp_path, {"src/new.rs": "fn brand_new() {}\n"})
        open_index(*index_arguments)
        assert (first / "files.arrow").exists()
        reader.finish("done")
    write_tables(tmp_path, {"src/newer.rs": "fn newest() {}\n"})
    open_index(*index_arguments)
    assert not first.exists()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_index_is_built_again(index_arguments, fault):
    question = "Who tallies votes in consensus?"
    index = open_index(*index_arguments)
    expected = index.search(question, 5)
    paths = [p for p in sorted(index.folder.rglob("*")) if p.is_file()]
    assert len(paths) >= 9
    for number, path in enumerate(paths):
        damage_file(path, fault, random.Random(number))
        again = open_index(*index_arguments)
        assert again.search(question, 5) == expected, path
        assert again.file_text("src/ledger.rs") == FILES["src/ledger.rs"]


def test_failed_build_leaves_no_files(index_arguments, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(repository_index, "_write", fail)
        with pytest.raises(StorageError, match="No space left"):
            open_index(*index_arguments)
    assert [path for path in index_arguments[2].iterdir() if path.is_dir()] == []
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
    description = read_report(index_arguments[1])
    description["repositories"].append({"name": "other", "head": "f" * 40})
    write_report(index_arguments[1], description)
    index = open_index(*index_arguments)
    assert index.file_text("chain/src/ledger.rs") == FILES["src/ledger.rs"]
    assert index.project == "chain and other"


def test_repository_without_text_is_indexed(index_arguments):
    write_tables(index_arguments[0].parent, {"empty.rs": " \n"})
    index = open_index(*index_arguments)
    assert index.known_names.matching_paths("empty.rs") == ["empty.rs"]


@pytest.mark.parametrize("name", ["index.json", "files.arrow", "passages.arrow", "commits.arrow"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\0" * 512])
def test_an_index_with_other_content_is_built_again(index_arguments, name, content):
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
        write_report(index_arguments[1], stored)
        with suppress(StaleDataError):
            open_index(*index_arguments)
    write_report(index_arguments[1], {"name": "chain"})
    with pytest.raises(StaleDataError, match=r"The dataset repository .*git_ingest"):
        open_index(*index_arguments)
