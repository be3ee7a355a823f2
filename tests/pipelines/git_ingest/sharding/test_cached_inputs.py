"""Whatever changes between two runs, the second gives the tables of a run without a cache."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import IngestResult, ingest

import the_block_llm
from the_block_llm.pipelines.git_ingest.git import program
from the_block_llm.pipelines.git_ingest.sharding import shard_cache

PACKAGE = Path(the_block_llm.__file__).parent
ALIAS = "Right Name <right@example.org>"


@dataclass
class Inputs:
    """What a run reads."""

    repository: GitRepository
    other: GitRepository
    params: dict[str, Any] = field(default_factory=dict)
    cutoff: Any = None

    def write(self, name: str, text: str | None) -> None:
        self.repository.commit(f"Change {name}", {name: text})

    def git_file(self, name: str, text: str) -> None:
        path = self.repository.git_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def shas(self) -> list[str]:
        return self.repository.git("rev-list", "--reverse", "main").split()


def _replace_commit(inputs: Inputs) -> None:
    first, second, *_ = inputs.shas()
    inputs.repository.git("replace", "-f", second, first)


def _borrow_objects(inputs: Inputs) -> None:
    alternates = inputs.other.git_dir / "objects"
    inputs.git_file("objects/info/alternates", f"{alternates}\n")


def _set(**params: Any) -> Callable[[Inputs], None]:
    return lambda inputs: inputs.params.update(params)


def _write(name: str, text: str | None) -> Callable[[Inputs], None]:
    return lambda inputs: inputs.write(name, text)


def _use_another_key(inputs: Inputs) -> None:
    folder = inputs.repository.path.parent
    (folder / "other.key").write_text("ab" * 32)
    inputs.params["pseudonym_key_file"] = str(folder / "other.key")


def _cut_at(inputs: Inputs) -> None:
    inputs.cutoff = 0.5 if inputs.cutoff is None else None


def _commit_uncommitted_mailmap(inputs: Inputs) -> None:
    (inputs.repository.path / ".mailmap").write_text(f"{ALIAS} <ann@example.org>\n")
    inputs.git_file("config.mailmap", f"{ALIAS} <ann@example.org>\n")
    inputs.repository.git(
        "config", "mailmap.file", str(inputs.repository.git_dir / "config.mailmap")
    )
    inputs.repository.git("config", "log.mailmap", "false")


CHANGES: dict[str, Callable[[Inputs], None]] = {
    "mailmap by address": _write(".mailmap", f"{ALIAS} <ann@example.org>\n"),
    "mailmap by name": _write(".mailmap", f"{ALIAS} Ann Author <ann@example.org>\n"),
    "mailmap to another": _write(".mailmap", "Other <other@example.org> <ann@example.org>\n"),
    "no mailmap": _write(".mailmap", None),
    "mailmap in a folder": _write("docs/.mailmap", f"{ALIAS} <ann@example.org>\n"),
    "mailmap outside the tree": _commit_uncommitted_mailmap,
    "attributes": _write(".gitattributes", "*.py linguist-generated\n"),
    "other attributes": _write(".gitattributes", "*.py linguist-language=Rust -diff\n"),
    "no attributes": _write(".gitattributes", None),
    "attributes outside the tree": lambda inputs: inputs.git_file("info/attributes", "* -diff\n"),
    "replaced commit": _replace_commit,
    "graft": lambda inputs: inputs.git_file("info/grafts", f"{inputs.shas()[2]}\n"),
    "shallow": lambda inputs: inputs.git_file("shallow", f"{inputs.shas()[2]}\n"),
    "not shallow": lambda inputs: (inputs.repository.git_dir / "shallow").unlink(missing_ok=True),
    "alternates": _borrow_objects,
    "follow alternates": _set(follow_alternates=True),
    "ignore alternates": _set(follow_alternates=False),
    "another key": _use_another_key,
    "names": _set(pseudonymise=False),
    "no names": _set(pseudonymise=True),
    "secrets kept": _set(redact=False),
    "secrets masked": _set(redact=True),
    "small files": _set(max_file_bytes=40),
    "small patches": _set(max_patch_bytes=30),
    "short messages": _set(max_message_bytes=256),
    "since": _set(since="2023-11-14T22:16:00"),
    "always": _set(since=None),
    "all branches": _set(all_branches=True),
    "another branch": _set(ref="side"),
    "main": _set(ref="main"),
    "processes": _set(n_processes=3),
    "cut-off": _cut_at,
}


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return build_inputs(tmp_path)


def build_inputs(folder: Path) -> Inputs:
    repository = GitRepository(folder / "project")
    token = "ghp_" + "a1B2c3D4e5" * 3 + "a1B2c3"
    for number in range(6):
        name = "Ann" if number % 2 else "Ann Author"
        repository.commit(
            f"Set value {number}\n\n{'Because of it. ' * 30}",
            {"a.py": f"x = {number}\ntoken = '{token}'\n", f"b{number}.py": f"y = {number}\n" * 9},
            author=(name, "ann@example.org"),
        )
    tip = repository.git("rev-parse", "main")
    repository.commit("Try it", {"side.py": "z = 1\n"}, branch="side", parents=[tip])
    other = GitRepository(folder / "other")
    other.commit("Lend", {"lent.py": "l = 1\n"})
    return Inputs(repository, other)


def run_both(inputs: Inputs, folder: Path, number: int) -> tuple[IngestResult, IngestResult]:
    """Ingest with the cache of earlier runs, and with none."""
    options = {"pseudonym_key_file": str(folder / "pseudonym.key"), **inputs.params}
    results = [
        ingest(inputs.repository.path, folder / out, cutoff=inputs.cutoff, **options)
        for out in ("cached", f"fresh{number}")
    ]
    shutil.rmtree(folder / f"fresh{number}" / "cache")
    return results[0], results[1]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_an_input_gives_the_tables_of_a_run_without_a_cache(
    change: str, inputs: Inputs, tmp_path: Path
) -> None:
    run_both(inputs, tmp_path, 0)
    CHANGES[change](inputs)
    cached, fresh = run_both(inputs, tmp_path, 1)
    assert cached.all_rows() == fresh.all_rows()


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.lists(st.sampled_from(sorted(CHANGES)), min_size=2, max_size=6))
def test_any_changes_one_after_the_other_do_the_same(
    tmp_path_factory: pytest.TempPathFactory, changes: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("changes")
    inputs = build_inputs(folder)
    for number, change in enumerate(changes):
        CHANGES[change](inputs)
        cached, fresh = run_both(inputs, folder, number)
        assert cached.all_rows() == fresh.all_rows(), changes[: number + 1]


def test_a_new_mailmap_gives_all_earlier_commits_to_the_right_author(
    inputs: Inputs, tmp_path: Path
) -> None:
    first = ingest(inputs.repository.path, tmp_path / "out", pseudonymise=False)
    assert {author for (author,) in first.rows("commits", "author_id")} == {
        "Ann <ann@example.org>", "Ann Author <ann@example.org>",
    }  # fmt: skip
    inputs.write(".mailmap", f"{ALIAS} <ann@example.org>\n")
    second = ingest(inputs.repository.path, tmp_path / "out", pseudonymise=False)
    assert {author for (author,) in second.rows("commits", "author_id")} == {ALIAS}
    assert second.report["history"][0]["commits_read_now"] == 7
    third = ingest(inputs.repository.path, tmp_path / "out", pseudonymise=False)
    assert third.report["history"][0]["commits_read_now"] == 0


def test_what_was_read_from_another_object_store_is_not_used_without_it(
    inputs: Inputs, tmp_path: Path
) -> None:
    blob = inputs.repository.git("rev-parse", "main:b0.py")
    part = Path("objects", blob[:2], blob[2:])
    (inputs.other.git_dir / part).parent.mkdir(exist_ok=True)
    (inputs.repository.git_dir / part).rename(inputs.other.git_dir / part)
    _borrow_objects(inputs)
    for number, follow in enumerate((True, False, True)):
        inputs.params["follow_alternates"] = follow
        cached, fresh = run_both(inputs, tmp_path, number)
        assert cached.all_rows() == fresh.all_rows()
        reasons = {reason for (reason,) in cached.rows("snapshot_files", "drop_reason")}
        assert ("missing_object" in reasons) is not follow


@pytest.fixture
def new_tools(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    yield monkeypatch
    monkeypatch.undo()
    program.tools_digest.cache_clear()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("require_git", lambda: "9.9.9"),
        ("library_versions", lambda names: dict.fromkeys(names, "99")),
        ("code_digest", lambda: "another"),
    ],
)  # fmt: skip
def test_other_tools_read_everything_again(
    name: str, value: Any, inputs: Inputs, tmp_path: Path, new_tools: pytest.MonkeyPatch
) -> None:
    ingest(inputs.repository.path, tmp_path / "out")
    new_tools.setattr(program, name, value)
    program.tools_digest.cache_clear()
    assert ingest(inputs.repository.path, tmp_path / "out").report["history"][0][
        "commits_read_now"
    ] == len(inputs.shas())


def _imports(module: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(module.read_text(encoding="utf-8"))))
    plain = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    return plain | {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}


def test_every_library_and_module_that_decides_rows_is_part_of_the_digest() -> None:
    modules = (PACKAGE / "pipelines/git_ingest").rglob("*.py")
    imported = {name for module in modules for name in _imports(module)}
    libraries = {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names)
    # These transport rows, draw or compare tables; they decide no value.
    neutral = {
        "filelock", "git", "kedro", "matplotlib", "numpy", "pyarrow", "pydantic", "rensa",
    }  # fmt: skip
    known = {"detect_secrets", "charset_normalizer", "pathspec", "re2", "the_block_llm"}
    assert libraries == neutral | known
    own = {n.removeprefix("the_block_llm.") for n in imported if n.startswith("the_block_llm.")}
    outside = {name for name in own if not name.startswith("pipelines.git_ingest")}
    hashed = {name.removesuffix(".py").replace("/", ".") for name in shard_cache._SOURCES}
    assert outside - hashed == {
        "datasets.repository_rows", "errors", "execution.jobs", "execution.local_jobs",
        "execution.params", "execution.ray_jobs", "files.checksums", "files.durable_files",
        "locks.leases", "locks.process_lock", "memory", "os_errors", "progress", "source_digest",
        "viz",
    }  # fmt: skip


def test_a_damaged_manifest_is_read_as_no_manifest(tmp_path: Path) -> None:
    cache = shard_cache.ShardCache(tmp_path)
    for text in ("", "{", "[]", "3", '{"other": 1}', '{"files": []}', '{"files": null}', "\0\0"):
        (tmp_path / "name.notes.json").write_text(text)
        assert cache.manifest("name") is None


def test_the_environment_of_the_user_changes_nothing(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ingest(inputs.repository.path, tmp_path / "out", pseudonymise=False).all_rows()
    config = tmp_path / "gitconfig"
    mailmap = tmp_path / "mailmap"
    mailmap.write_text(f"{ALIAS} <ann@example.org>\n")
    config.write_text(f"[mailmap]\n\tfile = {mailmap}\n[log]\n\tmailmap = true\n")
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, str(config))
    program.require_git.cache_clear()
    fresh = ingest(inputs.repository.path, tmp_path / "fresh", pseudonymise=False)
    assert fresh.all_rows() == before
    listed = subprocess.check_output(
        ["git", "log", "-1", "--format=%aN"], cwd=inputs.repository.path, text=True
    )
    assert listed == "Right Name\n"
