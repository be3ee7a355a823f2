"""A later run reads only new commits and gives the same tables as a full run."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.builders.damage import FAULTS, damage_file
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import ingest

import the_block_llm
from the_block_llm.datasets.parquet_table import ParquetTable, table_exists
from the_block_llm.pipelines.git_ingest.git import program
from the_block_llm.pipelines.git_ingest.sharding.shard_cache import code_digest


def _without_author_ids(tables: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    # Each folder has its own pseudonym key.
    return [[{k: v for k, v in row.items() if k != "author_id"} for row in t] for t in tables]


def test_a_second_run_reads_nothing_and_a_longer_history_only_new_commits(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit_many([(f"Set value {i}", {"a.py": f"x = {i}\n"}) for i in range(300)])
    first = ingest(repository.path, tmp_path / "out")
    assert first.report["history"][0]["commits_read_now"] == 300
    rows_before = first.all_rows()
    again = ingest(repository.path, tmp_path / "out")
    assert again.report["history"][0]["commits_read_now"] == 0
    assert again.all_rows() == rows_before

    repository.commit("One more", {"a.py": "y = 1\n"})
    longer = ingest(repository.path, tmp_path / "out")
    assert 1 <= longer.report["history"][0]["commits_read_now"] < 301
    full = ingest(repository.path, tmp_path / "full")
    assert _without_author_ids(longer.all_rows()) == _without_author_ids(full.all_rows())


def test_a_rewritten_history_and_other_options_are_read_again(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "1\n"})
    kept = repository.commit("Two", {"a.py": "2\n"})
    repository.commit("Three", {"a.py": "3\n"})
    ingest(repository.path, tmp_path / "out")
    repository.commit("Other three", {"a.py": "4\n"}, parents=[kept])
    result = ingest(repository.path, tmp_path / "out")
    assert [s for (s,) in result.rows("commits", "subject")] == ["One", "Two", "Other three"]
    small = ingest(repository.path, tmp_path / "out", max_patch_bytes=5)
    assert {reason for (reason,) in small.rows("file_changes", "drop_reason")} == {"too_large"}


@pytest.fixture(autouse=True)
def _forget_the_digest() -> Iterator[None]:
    yield
    program.tools_digest.cache_clear()


PACKAGE = Path(the_block_llm.__file__).parent
STAGE = "pipelines/git_ingest"


def move_a_module(package: Path) -> None:
    (package / STAGE / "redaction/redactor.py").rename(package / STAGE / "filters/redactor.py")


def change_a_column_type(package: Path) -> None:
    schemas = package / "schemas.py"
    text = schemas.read_text(encoding="utf-8")
    assert text.count('"additions", pa.int64()') == 1
    schemas.write_text(text.replace('"additions", pa.int64()', '"additions", pa.int32()'))


def edit_a_module(package: Path) -> None:
    with (package / STAGE / "history/commit_classifier.py").open("a") as module:
        module.write("# another rule\n")


@pytest.mark.parametrize("change", [move_a_module, change_a_column_type, edit_a_module])
def test_shards_of_other_code_are_not_reused(
    change: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "the_block_llm"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    assert code_digest(package) == code_digest(PACKAGE)
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "1\n"})
    ingest(repository.path, tmp_path / "out")
    change(package)
    changed = code_digest.__wrapped__(package)
    monkeypatch.setattr(program, "code_digest", lambda: changed)
    program.tools_digest.cache_clear()
    assert ingest(repository.path, tmp_path / "out").report["history"][0]["commits_read_now"] == 1
    assert ingest(repository.path, tmp_path / "out").report["history"][0]["commits_read_now"] == 0


def test_a_damaged_cache_is_noticed_and_read_again(tmp_path: Path) -> None:
    """Shards and parts of tables are hard links of one file, so damage to one is damage to both."""
    repository = GitRepository(tmp_path / "project")
    repository.commit_many([(f"Set value {i}", {f"{i}.py": f"x = {i}\n"}) for i in range(30)])
    expected = ingest(repository.path, tmp_path / "out", cutoff=0.5).all_rows()
    rng = random.Random(5)
    names = [
        p.relative_to(tmp_path)
        for p in sorted((tmp_path / "out/cache").rglob("*.*"))
        if p.is_file() and p.suffix != ".lock"
    ]
    assert {name.parent.name for name in names} == {"commits", "history", "order", "snapshot"}
    for number, name in enumerate(names):
        damage_file(tmp_path / name, FAULTS[number % len(FAULTS)], rng)
        assert ingest(repository.path, tmp_path / "out", cutoff=0.5).all_rows() == expected, name
    for name in names:
        damage_file(tmp_path / name, "bit", rng)
    assert ingest(repository.path, tmp_path / "out", cutoff=0.5).all_rows() == expected


_TEXTS = [
    b"text\n", "naïve\n".encode(), "日本\r\n".encode(), b"", b"a\n\nb",
    "\ufeffwith a mark\n".encode(), "wide\n".encode("utf-16"), b"\0\1\2",
    "Überprüfung der Größe für alle Stücke\n".encode("latin-1") * 4,
    "日本語のテキストです。これは設定ファイルの説明です。\n".encode("shift_jis") * 4,
]  # fmt: skip
_STEP = st.tuples(
    st.sampled_from(["add", "edit", "delete", "rename", "merge", "branch"]),
    st.integers(0, 5),
    st.sampled_from(_TEXTS),
)


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(_STEP, min_size=1, max_size=8), first_run_after=st.integers(1, 8))
def test_any_history_full_equals_incremental_and_every_change_is_one_row(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, int, bytes]],
    first_run_after: int,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    repository = GitRepository(folder / "project")
    repository.commit("Begin", {f"f{i}.txt": f"{i}\n" * (i + 3) for i in range(3)})
    for number, (action, which, text) in enumerate(steps):
        _apply_step(repository, number, action, which, text)
        if number == first_run_after:
            ingest(repository.path, folder / "out")
    result = ingest(repository.path, folder / "out")

    full = ingest(repository.path, folder / "full")
    assert _without_author_ids(result.all_rows()) == _without_author_ids(full.all_rows())
    changes = list(result.file_changes.rows())
    changed = [(r["sha"], r["status"], r["old_path"], r["path"]) for r in changes]
    assert Counter(changed) == Counter(_raw_changes(repository))
    for line in repository.git("rev-list", "--parents", "HEAD").splitlines():
        sha, *parents = line.split()
        touched = [
            path
            for row in changes
            if row["sha"] == sha
            for path in ((row["old_path"], row["path"]) if row["status"] == "R" else (row["path"],))
        ]
        # Compare with the difference of two trees, which is independent of renames and patches.
        before = _blobs(repository, parents[0]) if parents else set[tuple[str, str]]()
        differing = {path for path, _ in before ^ _blobs(repository, sha)}
        assert sorted(touched) == ([] if len(parents) > 1 else sorted(differing))
    for row in changes:
        if row["status"] == "A" and row["kept"]:
            content = _added(row["patch"]).encode(row["encoding"])
            assert content == _blob(repository, row["sha"], row["path"])
    for row in result.snapshot_files.rows():
        if row["kept"]:
            assert _blob(repository, row["sha"], row["path"]) in _possible_bytes(row["text"])


def _raw_changes(repository: GitRepository) -> list[tuple[str, str, str | None, str]]:
    changes: list[tuple[str, str, str | None, str]] = []
    sha = ""
    for line in repository.git("log", "--raw", "-M", "-C", "--format=%H").splitlines():
        if line.startswith(":"):
            fields, *paths = line.split("\t")
            old_path = paths[0] if len(paths) == 2 else None
            changes.append((sha, fields.split()[-1][0], old_path, paths[-1]))
        elif line:
            sha = line
    return changes


def _blobs(repository: GitRepository, sha: str) -> set[tuple[str, str]]:
    listed = repository.git("ls-tree", "-r", sha).splitlines()
    return {(line.split("\t")[1], line.split()[2]) for line in listed}


def _blob(repository: GitRepository, sha: str, path: str) -> bytes:
    return subprocess.check_output(
        ["git", "cat-file", "blob", f"{sha}:{path}"], cwd=repository.path
    )


def _added(patch: str) -> str:
    lines = patch.removesuffix("\n").split("\n")[1:]
    has_no_newline = lines[-1].startswith("\\")
    text = "".join(f"{line[1:]}\n" for line in lines if line.startswith("+"))
    return text.removesuffix("\n") if has_no_newline else text


def _possible_bytes(text: str) -> set[bytes]:
    found = set()
    for encoding in ("utf-8", "utf-16-le", "latin-1", "cp1252", "shift_jis", "cp932"):
        with contextlib.suppress(UnicodeEncodeError):
            found.add(text.encode(encoding))
    return found


def _apply_step(
    repository: GitRepository, number: int, action: str, which: int, text: bytes
) -> None:
    paths = repository.git("ls-tree", "-r", "--name-only", "main").split()
    message = f"Step {number}"
    if action == "merge" and repository.git("branch", "--list", "side"):
        tips = [repository.git("rev-parse", name) for name in ("main", "side")]
        repository.commit(message, parents=tips)
    elif action == "branch":
        tip = repository.git("rev-parse", "main")
        repository.commit(message, {f"side{which}.txt": text}, branch="side", parents=[tip])
    elif action == "rename" and paths:
        old = paths[which % len(paths)]
        repository.commit(message, renames={old: f"moved{number}.txt"})
    elif action == "delete" and paths:
        repository.commit(message, {paths[which % len(paths)]: None})
    else:
        repository.commit(message, {f"f{which}.txt": text + f"{number}\n".encode()})


_RUN = """
import sys
from pathlib import Path
from tests.pipelines.git_ingest.ingesting import ingest
print("ready", flush=True)
ingest(Path(sys.argv[1]), Path(sys.argv[2]), cutoff=0.5, n_processes=2)
"""


@pytest.mark.slow
def test_a_run_killed_at_any_time_leaves_complete_tables_and_the_next_run_completes_them(
    tmp_path: Path,
) -> None:
    repository = GitRepository(tmp_path / "project")
    for i in range(200):
        repository.commit(f"Set value {i}", {f"a{i % 7}.py": f"x = {i}\n"})
    expected = ingest(repository.path, tmp_path / "full", cutoff=0.5).all_rows()
    out = tmp_path / "out"
    rng = random.Random(3)
    root = Path(__file__).parents[4]
    for _ in range(20):
        run = subprocess.Popen(
            [sys.executable, "-c", _RUN, str(repository.path), str(out)],
            cwd=root,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])},
            stdout=subprocess.PIPE,
        )
        assert run.stdout is not None
        run.stdout.readline()
        time.sleep(rng.random() * 0.25)
        run.send_signal(signal.SIGKILL)
        run.wait()
        run.stdout.close()
        for table in ("commits", "file_changes", "snapshot_files"):
            if table_exists(out / table):
                assert list(ParquetTable(out / table).rows())
    result = ingest(repository.path, out, cutoff=0.5)
    assert _without_author_ids(result.all_rows()) == _without_author_ids(expected)
