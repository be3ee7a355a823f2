"""Search index of the repository: passages to retrieve, and the targets of citations.

Everything comes from the tables of git_ingest, in which secrets are masked; no file of the
repository is ever opened. The index is built once, in a folder named by a hash of the tables, and
is put there atomically by a rename. It has a checksum of each of its files; a damaged index is
built again.
"""

import hashlib
import json
import logging
import shutil
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, overload

import pyarrow as pa

from the_block_llm.datasets.cutoff import stored_repository, tables_are_complete
from the_block_llm.datasets.object_store import StorageLocation
from the_block_llm.datasets.parquet_table import MANIFEST_NAME, ParquetTable
from the_block_llm.datasets.report_files import read_report
from the_block_llm.errors import StorageError, TableError, TableReplacedError
from the_block_llm.files.checksums import (
    describe_files,
    find_damage,
    json_with_checksum,
    parse_json_with_checksum,
)
from the_block_llm.files.durable_files import replacing_folder
from the_block_llm.locks.leases import is_leased, lease
from the_block_llm.locks.process_lock import ProcessLock
from the_block_llm.os_errors import explain
from the_block_llm.progress import progress_bar
from the_block_llm.retrieval.citations import KnownNames, count_lines, identifiers_in
from the_block_llm.retrieval.passages import (
    Passage,
    PassageIndex,
    commit_passages,
    file_passages,
)
from the_block_llm.source_digest import library_versions, source_digest

_log = logging.getLogger(__name__)
# What splits files into passages, ranks them and writes the index.
_SOURCES: Final = ("advisor/index", "retrieval", "files")
_LIBRARIES: Final = ("bm25s", "pyarrow")
TABLES: Final = ("commits", "file_changes", "snapshot_files")
COUNTS: Final = "snapshot_counts.json"
_COMPLETE: Final = "index.json"  # written last
_MAX_ATTEMPTS: Final = 5
_PASSAGES: Final = pa.schema(
    [("source", pa.string()), ("text", pa.string()), ("first_line", pa.int32())]
)
_FILES: Final = pa.schema([("path", pa.string()), ("text", pa.string()), ("n_lines", pa.int32())])
_COMMITS: Final = pa.schema(
    [("sha", pa.string()), ("message", pa.string()), ("committed_at", pa.string()),
     ("paths", pa.list_(pa.string()))]
)  # fmt: skip
_IDENTIFIERS: Final = pa.schema([("name", pa.string())])


@dataclass(frozen=True)
class CommitText:
    """Message and changed paths of a commit."""

    sha: str
    message: str
    committed_at: str
    """UTC, ISO 8601."""
    paths: tuple[str, ...]


class RepositoryIndex:
    """An open index; texts stay on disk until they are read."""

    def __init__(self, folder: Path) -> None:
        """Open the complete index in ``folder``."""
        self.folder = folder
        metadata = parse_json_with_checksum((folder / _COMPLETE).read_bytes())
        self.project: str = metadata["project"]
        self._files = _read(folder / "files.arrow")
        self._commits = _read(folder / "commits.arrow")
        paths = self._files["path"].to_pylist()
        shas = self._commits["sha"].to_pylist()
        self._file_rows = {path: row for row, path in enumerate(paths)}
        self._commit_rows = {sha: row for row, sha in enumerate(shas)}
        self.known_names = KnownNames(
            dict(zip(paths, self._files["n_lines"].to_pylist(), strict=True)),
            shas,
            _read(folder / "identifiers.arrow")["name"].to_pylist(),
        )
        passages = _PassageTable(_read(folder / "passages.arrow"))
        self._passages = PassageIndex.load(passages, folder / "ranking")

    @property
    def fingerprint(self) -> str:
        """The hash of the tables that the index was built from."""
        return self.folder.name

    def search(self, query: str, max_passages: int) -> list[Passage]:
        """Return the best passages for ``query``, best first."""
        return self._passages.find(query, max_passages)

    def file_text(self, path: str) -> str | None:
        """Return the text of the file at exactly ``path``; None if there is no such file."""
        row = self._file_rows.get(path)
        return None if row is None else self._files["text"][row].as_py()

    def commit(self, sha: str) -> CommitText | None:
        """Return the commit with exactly this sha; None if there is no such commit."""
        row = self._commit_rows.get(sha)
        if row is None:
            return None
        values = self._commits.slice(row, 1).to_pylist()[0]
        return CommitText(**{**values, "paths": tuple(values["paths"])})


def open_index(
    tables_folder: Path, repository_file: Path, index_folder: Path, passage_characters: int
) -> RepositoryIndex:
    """Open the index of the current tables; build it if it does not exist.

    Other processes that need the same index wait for it. While git_ingest replaces the tables, or
    if it was stopped before its end, the newest index that exists is opened.

    Raises:
        TableError: git_ingest has not run, or has not finished and there is no earlier index.
        StorageError: The index cannot be written.
    """
    for _ in range(_MAX_ATTEMPTS):
        try:
            name = tables_fingerprint(tables_folder, repository_file, passage_characters)
        except TableReplacedError as error:
            return _open_newest(index_folder, error)
        target = index_folder / name
        index = _open_existing(target)
        if index is not None:
            return index
        try:
            with index_lock(index_folder):
                index = _open_existing(target)
                if index is None:
                    _build_index(tables_folder, repository_file, passage_characters, target)
                    index = _open_existing(target)
        except TableReplacedError:
            continue  # by a run that began since: there is another fingerprint
        except OSError as error:
            raise StorageError(
                f"The search index cannot be written to {index_folder}: {explain(error)} "
                "Then ask again."
            ) from error
        if index is not None:
            return index
    raise TableReplacedError(
        f"The tables in {tables_folder} were replaced {_MAX_ATTEMPTS} times while they were "
        "indexed. Ask again when no run replaces them, or without retrieval (--no-retrieval)."
    )


def index_lock(index_folder: Path) -> ProcessLock:
    """Return the lock of whoever changes the indexes, or the local copies of tables, there."""
    return ProcessLock(index_folder / ".lock", f"The search index in {index_folder}")


def tables_fingerprint(tables_folder: Path, repository_file: Path, passage_characters: int) -> str:
    """Return a hash that changes whenever a table, or the code that makes the index, changes.

    Raises:
        TableError: A table is missing.
        TableReplacedError: git_ingest is replacing the tables, or was stopped before its end.
        StaleDataError: Another version of the project wrote ``repository.json``.
    """
    repository = _read_repository(repository_file)
    check_tables_complete(tables_folder, repository)
    made_by = f"{source_digest(_SOURCES)} {library_versions(_LIBRARIES)}"
    digest = hashlib.sha256(f"{made_by} {passage_characters}".encode())
    digest.update(json.dumps(_head_commits(repository), sort_keys=True).encode())
    for name in TABLES:
        try:
            digest.update((tables_folder / name / MANIFEST_NAME).read_bytes())
        except FileNotFoundError:
            raise _not_ingested(tables_folder / name) from None
        except OSError as error:
            raise _unreadable(tables_folder / name, error) from error
    check_tables_complete(tables_folder, _read_repository(repository_file))
    return digest.hexdigest()[:16]


def check_tables_complete(tables_folder: StorageLocation, repository: Mapping[str, Any]) -> None:
    """Check that all tables come from the run of git_ingest that wrote ``repository``.

    Raises:
        TableReplacedError: Some do not, or not yet.
    """
    try:
        counts = read_report(tables_folder / COUNTS)
    except TableError:
        counts = []
    if not tables_are_complete(repository, counts):
        raise TableReplacedError(
            f"The tables in {tables_folder} are incomplete: the run of git_ingest that began at "
            f"{repository['pinned_at']} still runs or was stopped. Wait for it, or run `kedro run "
            "--pipeline=git_ingest`; or ask without retrieval (--no-retrieval)."
        )


def _open_existing(folder: Path) -> RepositoryIndex | None:
    """Open an index, with a lease that ends with the object; None if it does not exist."""
    if not (folder / _COMPLETE).is_file():
        return None
    with ExitStack() as stack:
        # Looked up again with the lease, from which on no other process removes the folder.
        stack.enter_context(lease(folder))
        if not _is_complete(folder):
            return None
        index = RepositoryIndex(folder)
        weakref.finalize(index, stack.pop_all().close)
    return index


def _open_newest(index_folder: Path, error: TableReplacedError) -> RepositoryIndex:
    found = [(path.stat().st_mtime, path.parent) for path in index_folder.glob(f"*/{_COMPLETE}")]
    for built_at, folder in sorted(found, reverse=True):
        index = _open_existing(folder)
        if index is not None:
            _log.warning(
                "%s Until then answers come from the index of %s.", error,
                datetime.fromtimestamp(built_at, UTC).isoformat(timespec="seconds"),
                extra={"markup": False},
            )  # fmt: skip
            return index
    raise error


def _is_complete(folder: Path) -> bool:
    try:
        metadata = parse_json_with_checksum((folder / _COMPLETE).read_bytes())
    except (OSError, ValueError):
        return False
    damage = find_damage(folder, metadata["files"])
    if damage is not None:
        _log.warning("The search index in %s is damaged (%s) and is built again.", folder, damage,
                     extra={"markup": False})  # fmt: skip
    return damage is None


def _build_index(
    tables_folder: Path, repository_file: Path, passage_characters: int, target: Path
) -> None:
    repository = _read_repository(repository_file)
    commits, changes, snapshot = (ParquetTable(tables_folder / name) for name in TABLES)
    heads = _head_commits(repository)
    with replacing_folder(target) as temporary:
        with progress_bar("Indexing the repository", snapshot.num_rows + changes.num_rows) as bar:
            passages: list[Passage] = []
            identifiers: set[str] = set()
            files = []
            for row in snapshot.rows(["repo", "sha", "path", "text"]):
                bar.advance()
                if row["sha"] != heads.get(row["repo"]):
                    continue
                path, text = _qualified_path(row, heads), row["text"] or ""
                files.append({"path": path, "text": text, "n_lines": count_lines(text)})
                identifiers |= identifiers_in(path) | identifiers_in(text)
                passages += file_passages(path, text, passage_characters)
            commit_rows = {
                row["sha"]: row
                for row in commits.rows(["sha", "subject", "body", "committed_at", "is_merge"])
            }
            paths_by_commit: dict[str, list[str]] = {}
            changed_paths = []
            for row in changes.rows(["repo", "sha", "path"]):
                bar.advance()
                path = _qualified_path(row, heads)
                changed_paths.append({"sha": row["sha"], "path": path})
                paths_by_commit.setdefault(row["sha"], []).append(path)
            non_merges = {sha: row for sha, row in commit_rows.items() if not row["is_merge"]}
            passages += commit_passages(non_merges, changed_paths, passage_characters)
            history = [
                {
                    "sha": sha,
                    "message": f"{row['subject']}\n\n{row['body']}".strip(),
                    "committed_at": row["committed_at"].isoformat(),
                    "paths": paths_by_commit.get(sha, []),
                }
                for sha, row in commit_rows.items()
            ]
            _write(temporary / "files.arrow", _FILES, files)
            _write(temporary / "commits.arrow", _COMMITS, history)
            names = [{"name": name} for name in sorted(identifiers)]
            _write(temporary / "identifiers.arrow", _IDENTIFIERS, names)
            rows = [
                {"source": p.source, "text": p.text, "first_line": p.first_line} for p in passages
            ]
            _write(temporary / "passages.arrow", _PASSAGES, rows)
            PassageIndex(passages).save(temporary / "ranking")
        paths = [*temporary.glob("*.arrow"), *(temporary / "ranking").iterdir()]
        metadata = {
            "project": " and ".join(heads),
            "passages": len(passages),
            "files": {
                path.relative_to(temporary).as_posix(): description
                for path in paths
                for description in describe_files([path]).values()
            },
        }
        (temporary / _COMPLETE).write_text(json_with_checksum(metadata), encoding="utf-8")
        if tables_fingerprint(tables_folder, repository_file, passage_characters) != target.name:
            raise TableReplacedError(f"The tables in {tables_folder} were replaced.")
    _log.info("Indexed %d passages of %d files and %d commits",
              len(passages), len(files), len(history), extra={"markup": False})  # fmt: skip
    for outdated in target.parent.glob("*/"):
        if outdated != target and not outdated.name.startswith("."):
            # Nobody opens it any more; it goes once no server, of any host, has it open.
            (outdated / _COMPLETE).unlink(missing_ok=True)
            if not is_leased(outdated):
                shutil.rmtree(outdated, ignore_errors=True)


def _head_commits(repository: Mapping[str, Any]) -> dict[str, str]:
    """Return the head commit of each repository, by its name."""
    with stored_repository():
        return {str(entry["name"]): str(entry["head"]) for entry in repository["repositories"]}


def _qualified_path(row: Mapping[str, Any], heads: Mapping[str, str]) -> str:
    # Paths of several repositories may be equal, such as README.md.
    return f"{row['repo']}/{row['path']}" if len(heads) > 1 else str(row["path"])


def _read_repository(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise _not_ingested(path)
    with stored_repository():
        return dict(read_report(path))


def _not_ingested(path: Path) -> TableError:
    return TableError(
        f"There is no {path} to search yet. Run `kedro run --pipeline=git_ingest` first, or ask "
        "without retrieval (--no-retrieval)."
    )


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path} cannot be read: {explain(error)}")


def _write(path: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema), max_chunksize=4096)


def _read(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


class _PassageTable(Sequence[Passage]):
    """Passages as a sequence over a memory-mapped table."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> list[Passage]: ...
    def __getitem__(self, index: int | slice) -> Passage | list[Passage]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        return Passage(*(self._table[name][index].as_py() for name in _PASSAGES.names))

    def __iter__(self) -> Iterator[Passage]:
        return (self[row] for row in range(len(self)))
