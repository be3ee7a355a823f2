"""The repository as the advisor sees it: passages to search, and what citations point at.

Everything comes from the tables of git_ingest, where secrets are masked; no file of the
repository is ever opened. The index is built once into a folder named by a hash of the
tables, and appears there by one rename.
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

_log = logging.getLogger(__name__)
_FORMAT: Final = 1
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
    """What there is to read about a commit."""

    sha: str
    message: str
    committed_at: str
    """UTC, ISO 8601."""
    paths: tuple[str, ...]


class RepositoryIndex:
    """An index on disk, opened; texts stay on disk until they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Open the finished index in ``folder``."""
        self.folder = folder
        about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.project: str = about["project"]
        self._files = _read(folder / "files.arrow")
        self._commits = _read(folder / "commits.arrow")
        paths = self._files["path"].to_pylist()
        shas = self._commits["sha"].to_pylist()
        self._file_rows = {path: row for row, path in enumerate(paths)}
        self._commit_rows = {sha: row for row, sha in enumerate(shas)}
        self.known = KnownNames(
            dict(zip(paths, self._files["n_lines"].to_pylist(), strict=True)),
            shas,
            _read(folder / "identifiers.arrow")["name"].to_pylist(),
        )
        passages = _PassageRows(_read(folder / "passages.arrow"))
        self._passages = PassageIndex.load(passages, folder / "ranking")

    @property
    def fingerprint(self) -> str:
        return self.folder.name

    def find(self, question: str, n_passages: int) -> list[Passage]:
        """The passages that fit ``question`` best, best first."""
        return self._passages.find(question, n_passages)

    def file_text(self, path: str) -> str | None:
        """The text of the file at exactly ``path``; none where there is no such file."""
        row = self._file_rows.get(path)
        return None if row is None else self._files["text"][row].as_py()

    def commit(self, sha: str) -> CommitText | None:
        """The commit with exactly this sha."""
        row = self._commit_rows.get(sha)
        if row is None:
            return None
        found = self._commits.slice(row, 1).to_pylist()[0]
        return CommitText(**{**found, "paths": tuple(found["paths"])})


def open_index(
    tables_folder: Path, repository_file: Path, index_folder: Path, passage_characters: int
) -> RepositoryIndex:
    """Open the index of the tables as they are now; build it where there is none.

    Raises:
        TableError: git_ingest has not run.
        StorageError: The index cannot be written.
    """
    name = tables_fingerprint(tables_folder, repository_file, passage_characters)
    target = index_folder / name
    if not (target / "index.json").is_file():
        _build(tables_folder, _read_repository(repository_file), passage_characters, target)
    return RepositoryIndex(target)


def tables_fingerprint(tables_folder: Path, repository_file: Path, passage_characters: int) -> str:
    """Changes whenever a table does.

    Raises:
        TableError: A table is missing.
    """
    digest = hashlib.sha256(f"{_FORMAT} {passage_characters}".encode())
    digest.update(json.dumps(_heads(_read_repository(repository_file)), sort_keys=True).encode())
    for name in TABLES:
        try:
            digest.update((tables_folder / name / MANIFEST_NAME).read_bytes())
        except OSError:
            raise _not_ingested(tables_folder / name) from None
    return digest.hexdigest()[:16]


def _build(
    tables_folder: Path, repository: Mapping[str, Any], passage_characters: int, target: Path
) -> None:
    commits, changes, snapshot = (ParquetTable(tables_folder / name) for name in TABLES)
    heads = _heads(repository)
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}.unfinished")
    try:
        unfinished.mkdir(parents=True)
        with progress_bar("Indexing the repository", snapshot.num_rows + changes.num_rows) as bar:
            passages: list[Passage] = []
            identifiers: set[str] = set()
            files = []
            for row in snapshot.rows(["repo", "sha", "path", "text"]):
                bar.advance()
                if row["sha"] != heads.get(row["repo"]):
                    continue
                path, text = _path(row, heads), row["text"] or ""
                files.append({"path": path, "text": text, "n_lines": count_lines(text)})
                identifiers |= identifiers_in(path) | identifiers_in(text)
                passages += file_passages(path, text, passage_characters)
            told = {
                row["sha"]: row
                for row in commits.rows(["sha", "subject", "body", "committed_at", "is_merge"])
            }
            paths_of: dict[str, list[str]] = {}
            changed = []
            for row in changes.rows(["repo", "sha", "path"]):
                bar.advance()
                changed.append({"sha": row["sha"], "path": _path(row, heads)})
                paths_of.setdefault(row["sha"], []).append(changed[-1]["path"])
            plain = {sha: row for sha, row in told.items() if not row["is_merge"]}
            passages += commit_passages(plain, changed, passage_characters)
            history = [
                {
                    "sha": sha,
                    "message": f"{row['subject']}\n\n{row['body']}".strip(),
                    "committed_at": row["committed_at"].isoformat(),
                    "paths": paths_of.get(sha, []),
                }
                for sha, row in told.items()
            ]
            _write(unfinished / "files.arrow", _FILES, files)
            _write(unfinished / "commits.arrow", _COMMITS, history)
            names = [{"name": name} for name in sorted(identifiers)]
            _write(unfinished / "identifiers.arrow", _IDENTIFIERS, names)
            rows = [
                {"source": p.source, "text": p.text, "first_line": p.first_line} for p in passages
            ]
            _write(unfinished / "passages.arrow", _PASSAGES, rows)
            PassageIndex(passages).save(unfinished / "ranking")
        about = {"project": " and ".join(heads), "passages": len(passages), "files": len(files)}
        (unfinished / "index.json").write_text(json.dumps(about), encoding="utf-8")
        # Where another process was faster, its index is as good.
        if not (target / "index.json").is_file():
            unfinished.rename(target)
        _log.info("Indexed %d passages of %d files and %d commits",
                  len(passages), len(files), len(history), extra={"markup": False})  # fmt: skip
    except OSError as error:
        raise StorageError(
            f"The search index cannot be written to {target.parent}: {error.strerror or error}. "
            "Free some space or make the folder writable, then ask again."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for old in target.parent.iterdir():
        # An index that a running server has open stays readable to it after this.
        if old != target and not old.name.startswith("."):
            shutil.rmtree(old, ignore_errors=True)


def _heads(repository: Mapping[str, Any]) -> dict[str, str]:
    """By repository name, the commit whose files are read."""
    return {one["name"]: one["head"] for one in repository["repositories"]}


def _path(row: Mapping[str, Any], heads: Mapping[str, str]) -> str:
    # Two repositories may both have a README.md.
    return f"{row['repo']}/{row['path']}" if len(heads) > 1 else str(row["path"])


def _read_repository(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise _not_ingested(path) from None
    return found


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


class _PassageRows(Sequence[Passage]):
    """Passages that stay on disk."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, place: int) -> Passage: ...
    @overload
    def __getitem__(self, place: slice) -> list[Passage]: ...
    def __getitem__(self, place: int | slice) -> Passage | list[Passage]:
        if isinstance(place, slice):
            return [self[at] for at in range(*place.indices(len(self)))]
        return Passage(*(self._table[name][place].as_py() for name in _PASSAGES.names))

    def __iter__(self) -> Iterator[Passage]:
        return (self[at] for at in range(len(self)))
