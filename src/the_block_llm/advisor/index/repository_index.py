"""Search index of the repository: passages to retrieve, and the targets of citations.

Everything comes from the tables of git_ingest, in which secrets are masked; no file of the
repository is ever opened. The index is built once, in a folder named by a hash of the tables, and
is put there atomically by a rename.
"""

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, overload

import pyarrow as pa

from the_block_llm.datasets.cutoff import stored_repository
from the_block_llm.datasets.parquet_table import MANIFEST_NAME, ParquetTable
from the_block_llm.errors import StorageError, TableError
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
# What cuts passages, ranks them and lays out the files of the index.
_SOURCES: Final = ("advisor/index", "retrieval")
_LIBRARIES: Final = ("bm25s", "pyarrow")
TABLES: Final = ("commits", "file_changes", "snapshot_files")
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
        metadata = json.loads((folder / "index.json").read_text(encoding="utf-8"))
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

    Raises:
        TableError: git_ingest has not run.
        StorageError: The index cannot be written.
    """
    name = tables_fingerprint(tables_folder, repository_file, passage_characters)
    target = index_folder / name
    if (target / "index.json").is_file():
        try:
            return RepositoryIndex(target)
        except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
            _log.warning(
                "The search index %s is damaged (%s) and is built again", target, error,
                extra={"markup": False},
            )  # fmt: skip
            shutil.rmtree(target, ignore_errors=True)
    _build_index(tables_folder, _read_repository(repository_file), passage_characters, target)
    return RepositoryIndex(target)


def tables_fingerprint(tables_folder: Path, repository_file: Path, passage_characters: int) -> str:
    """Return a hash that changes whenever a table, or the code that makes the index, changes.

    Raises:
        TableError: A table is missing.
        StaleDataError: Another version of the project wrote ``repository.json``.
    """
    made_by = f"{source_digest(_SOURCES)} {library_versions(_LIBRARIES)}"
    digest = hashlib.sha256(f"{made_by} {passage_characters}".encode())
    digest.update(
        json.dumps(_head_commits(_read_repository(repository_file)), sort_keys=True).encode()
    )
    for name in TABLES:
        try:
            digest.update((tables_folder / name / MANIFEST_NAME).read_bytes())
        except OSError:
            raise _not_ingested(tables_folder / name) from None
    return digest.hexdigest()[:16]


def _build_index(
    tables_folder: Path, repository: Mapping[str, Any], passage_characters: int, target: Path
) -> None:
    commits, changes, snapshot = (ParquetTable(tables_folder / name) for name in TABLES)
    heads = _head_commits(repository)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.unfinished")
    try:
        temporary.mkdir(parents=True)
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
        metadata = {"project": " and ".join(heads), "passages": len(passages), "files": len(files)}
        (temporary / "index.json").write_text(json.dumps(metadata), encoding="utf-8")
        # Another process may have built the same index in the meantime.
        if not (target / "index.json").is_file():
            temporary.rename(target)
        _log.info("Indexed %d passages of %d files and %d commits",
                  len(passages), len(files), len(history), extra={"markup": False})  # fmt: skip
    except OSError as error:
        raise StorageError(
            f"The search index cannot be written to {target.parent}: {error.strerror or error}. "
            "Free some space or make the folder writable, then ask again."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for outdated in target.parent.iterdir():
        # A running server can still read an index that it has open.
        if outdated != target and not outdated.name.startswith("."):
            shutil.rmtree(outdated, ignore_errors=True)


def _head_commits(repository: Mapping[str, Any]) -> dict[str, str]:
    """Return the head commit of each repository, by its name."""
    with stored_repository():
        return {str(entry["name"]): str(entry["head"]) for entry in repository["repositories"]}


def _qualified_path(row: Mapping[str, Any], heads: Mapping[str, str]) -> str:
    # Paths of several repositories may be equal, such as README.md.
    return f"{row['repo']}/{row['path']}" if len(heads) > 1 else str(row["path"])


def _read_repository(path: Path) -> dict[str, Any]:
    try:
        repository: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise _not_ingested(path) from None
    return repository


def _not_ingested(path: Path) -> TableError:
    return TableError(
        f"There is no {path} to search yet. Run `kedro run --pipeline=git_ingest` first, or ask "
        "without retrieval (--no-retrieval)."
    )


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
