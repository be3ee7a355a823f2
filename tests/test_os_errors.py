"""Each errno is named by its cause at each place, and by no other's."""

import ast
import errno
import os
import re
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from kedro.io import DatasetError
from tests.builders.advised_repository import write_adapter, write_tables

from the_block_llm import hooks
from the_block_llm.advisor.index.repository_index import open_index, tables_fingerprint
from the_block_llm.advisor.serving.server import bind_socket
from the_block_llm.datasets.adapter import AdapterDataset
from the_block_llm.datasets.object_store import StorePath
from the_block_llm.datasets.parquet_table import ParquetTable, save_table, write_text_atomically
from the_block_llm.errors import BlockError, StorageError, user_error_cause
from the_block_llm.models.base import hub
from the_block_llm.models.base.sources import call_with_loading_errors
from the_block_llm.models.profiles import _profile_for_architecture
from the_block_llm.os_errors import _REASONS, cause_of, explain, is_environment_error, os_errno
from the_block_llm.pipelines.behavioral_eval.report.trend import save_trend_entry
from the_block_llm.pipelines.behavioral_eval.runner.result_cache import ResultCache
from the_block_llm.pipelines.git_ingest.git.repository import RepositoryLocation, locate
from the_block_llm.pipelines.git_ingest.git.sandbox import open_sandbox
from the_block_llm.pipelines.git_ingest.redaction.pseudonyms import load_pseudonymizer
from the_block_llm.pipelines.git_ingest.sharding.fan_out import Failure, _run_guarded
from the_block_llm.pipelines.git_ingest.sources.repository_list import expand_repositories
from the_block_llm.pipelines.qlora_train.checkpoint.checkpoints import open_run
from the_block_llm.pipelines.qlora_train.registry.adapter_versions import delete_versions

SOURCE = Path(__file__).resolve().parents[1] / "src" / "the_block_llm"
SCHEMA = pa.schema([("a", pa.int64())])
ERRNOS = [
    "ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EMFILE", "ENFILE", "ENAMETOOLONG", "ENOTDIR",
    "EISDIR", "ELOOP", "EIO", "ESTALE", "ENODEV", "ENOTCONN", "ETIMEDOUT", "EBUSY", "EFBIG",
    "ENOMEM", "EUCLEAN", "ENOLCK", "EOPNOTSUPP",
]  # fmt: skip


def _location(folder: Path) -> RepositoryLocation:
    return RepositoryLocation("x", "x", folder, folder)


def _open_sandbox(folder: Path) -> None:
    with open_sandbox(
        _location(folder), folder / "cache", max_file_bytes=1, follow_alternates=True
    ):
        pass


def _reraise(error: BaseException | None) -> None:
    if isinstance(error, Failure):
        raise StorageError(error.reason)


def _raise(error: OSError) -> None:
    raise error


def _index(folder: Path) -> None:
    open_index(
        folder / "02_intermediate", folder / "01_raw" / "repository.json", folder / "index", 200
    )


def _fingerprint(folder: Path) -> None:
    tables_fingerprint(folder / "02_intermediate", folder / "01_raw" / "repository.json", 200)


def _read_table(folder: Path) -> None:
    (folder / "_manifest.json").touch()
    ParquetTable(folder)


def _store(error: OSError) -> None:
    class Store:
        def get_file(self, *_: object) -> None:
            raise error

    class Path_(StorePath):  # noqa: N801
        def _filesystem(self) -> Any:
            return Store()

    Path_("s3://bucket/x").get_file(Path("y"))


def _trend(folder: Path) -> None:
    (folder / "old.json").write_text("{}")
    save_trend_entry(folder, {"adapter": "x"})


_PROFILE: Any = SimpleNamespace(name="tiny", folder="/weights", hub_id=None, cache_folder="/cache")
_HUB_PROFILE: Any = SimpleNamespace(
    name="tiny", folder=None, hub_id="a/b", hub_revision="main", cache_folder="/cache"
)
_JOB: Any = SimpleNamespace(work_folder=Path("/tmp/nowhere"), profile=_PROFILE)

# The operation that the system refuses, and what is called.
PLACES: dict[str, tuple[tuple[object, str], Callable[[Path], object]]] = {
    "write text": ((Path, "replace"), lambda folder: write_text_atomically(folder / "x", "y")),
    "save a table": ((Path, "mkdir"), lambda folder: save_table(folder / "t", SCHEMA, [])),
    "save rows": (
        (Path, "replace"),
        lambda folder: save_table(folder, SCHEMA, [pa.table({"a": [1]}, SCHEMA)]),
    ),
    "read a table": ((Path, "read_text"), _read_table),
    "open the result cache": ((Path, "mkdir"), lambda folder: ResultCache(folder, "id")),
    "read the trend": ((Path, "read_bytes"), _trend),
    "make the pseudonym key": (
        (os, "open"), lambda folder: load_pseudonymizer(True, folder / "key"),
    ),
    "delete an adapter": (
        (Path, "rename"),
        lambda folder: delete_versions([SimpleNamespace(path=folder / "x")]),  # type: ignore[list-item]
    ),
    "start a training run": ((Path, "mkdir"), lambda _: open_run(_JOB)),
    "store an adapter": (
        (Path, "rename"),
        lambda folder: AdapterDataset(filepath=str(folder / "to")).save(
            folder.parent / "06_models" / "tiny" / "trained"
        ),
    ),
    "open a sandbox": ((Path, "mkdir"), _open_sandbox),
    "locate a repository": ((Path, "stat"), lambda folder: locate(str(folder), folder)),
    "list repositories": ((Path, "is_dir"), lambda folder: expand_repositories(str(folder))),
    "check the data folder": (
        (tempfile, "TemporaryFile"), hooks._check_data_folder,
    ),
    "build an index": ((Path, "rename"), _index),
    "read the index's tables": ((Path, "read_text"), _fingerprint),
    "read a model's configuration": (
        (Path, "read_text"), lambda folder: _profile_for_architecture(folder, SimpleNamespace()),  # type: ignore[arg-type]
    ),
    "listen": ((socket, "create_server"), lambda _: bind_socket("127.0.0.1", 0)),
}  # fmt: skip
RAISING: dict[str, Callable[[OSError], object]] = {
    "load weights": lambda error: call_with_loading_errors(_PROFILE, lambda: _raise(error)),
    "read repositories": lambda error: _reraise(_run_guarded(_raise, (error,))),
    "anything else": lambda error: _raise(user_error_cause(error) or error),  # type: ignore[arg-type]
}


def _check(message: str, name: str) -> None:
    assert _REASONS[name].cause in message
    text = os.strerror(getattr(errno, name))
    # A parameter, or the port, may be named in place of the remedy.
    others = {
        other.cause
        for key, other in _REASONS.items()
        if other.cause in message and os.strerror(getattr(errno, key)) != text
    }
    assert others - {_REASONS[name].cause} == set(), message
    if name not in {"ENOSPC", "EDQUOT"}:
        assert not re.search(r"[Ff]ree (some|disk) space|disk is full", message), message
    if name not in {"EACCES", "EPERM", "EROFS"}:
        assert "writable" not in message.replace("in a writable copy", ""), message


@pytest.mark.parametrize("place", PLACES)
def test_each_place_names_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (owner, operation), call = PLACES[place]
    if place == "store an adapter":
        write_adapter(tmp_path, "trained")
    for name in ERRNOS:
        number = getattr(errno, name)
        folder = tmp_path / name
        folder.mkdir()
        if "index" in place:
            write_tables(folder)

        def fail(*_: object, number: int = number, **__: object) -> None:
            raise OSError(number, os.strerror(number), "/refused")

        with monkeypatch.context() as patch:
            patch.setattr(owner, operation, fail)
            with pytest.raises((BlockError, DatasetError)) as caught:
                call(folder)
        _check(str(user_error_cause(caught.value)), name)


@pytest.mark.parametrize("name", ERRNOS)
def test_errors_that_reach_a_boundary_are_named_by_their_cause(name: str) -> None:
    number = getattr(errno, name)
    for call in RAISING.values():
        with pytest.raises(BlockError) as caught:
            call(OSError(number, os.strerror(number), "/refused"))
        _check(str(caught.value), name)


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EMFILE"])
def test_a_disk_of_this_machine_is_not_taken_for_the_store_or_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(hub._uses_cache, ("a/b", "main"), False)  # the Hub has answered
    number = getattr(errno, name)
    error = OSError(number, os.strerror(number))
    with pytest.raises(StorageError) as caught:
        _store(error)
    _check(str(caught.value), name)
    assert "network" not in str(caught.value)
    with pytest.raises(StorageError) as caught:
        call_with_loading_errors(_HUB_PROFILE, lambda: _raise(error))
    _check(str(caught.value), name)
    assert "license" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in _REASONS if hasattr(errno, name)])
@pytest.mark.parametrize("wrapped", ["plain", "cause", "context", "rust"])
def test_the_errno_is_found_behind_errors_of_libraries(name: str, wrapped: str) -> None:
    number = getattr(errno, name)
    system = OSError(number, os.strerror(number))
    error: BaseException = system
    if wrapped in {"cause", "context"}:
        error = RuntimeError("PytorchStreamWriter failed writing file data/0")
        setattr(error, f"__{wrapped}__", system)
    elif wrapped == "rust":
        error = RuntimeError(f"I/O error: {os.strerror(number)} (os error {number})")
    assert os_errno(error) == number
    assert _REASONS[name].cause.split(" (")[0] in cause_of(error)
    sentences = explain(error).split(". ")
    assert len(sentences) == 2 and sentences[1][0].isupper()  # noqa: PT018


@pytest.mark.parametrize(
    "error",
    [ValueError("No such thing"), OSError("a/b does not appear to have a file named config.json"),
     KeyError("x"), RuntimeError(""), FileNotFoundError(errno.ENOENT, "No such file", "/x")],
)  # fmt: skip
def test_other_errors_are_not_taken_for_the_environment(error: Exception) -> None:
    assert not is_environment_error(error)
    assert user_error_cause(error) is None
    assert explain(error)


def test_no_handler_of_an_os_error_names_a_cause_of_its_own() -> None:
    # One function knows the causes; a handler that says "free some space" would be wrong for most.
    own = re.compile(
        r"free (?:some|disk) space|writable|is full|permission|read-only", re.IGNORECASE
    )
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.ExceptHandler) or node.type is None:
                continue
            if "OSError" not in ast.unparse(node.type):
                continue
            texts = [
                part.value
                for statement in node.body
                for part in ast.walk(statement)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            said = " ".join(texts).replace("run in a writable copy of the project", "")
            if own.search(said):
                found.append(f"{path.relative_to(SOURCE)}:{node.lineno}: {said}")
    assert found == []
