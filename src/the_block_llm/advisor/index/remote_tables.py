"""Local copies of tables in an object store, for the search index."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from the_block_llm.advisor.index.repository_index import (
    COUNTS,
    TABLES,
    check_tables_complete,
    index_lock,
)
from the_block_llm.advisor.params import AdvisorParams
from the_block_llm.datasets.object_store import StorageLocation, StorePath
from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import StorageError, TableError, TableReplacedError
from the_block_llm.files.checksums import parse_json_with_checksum
from the_block_llm.files.durable_files import write_durably
from the_block_llm.os_errors import explain
from the_block_llm.progress import progress_bar

_log = logging.getLogger(__name__)
_LOCAL_FOLDER: Final = ".tables"
_REPOSITORY: Final = "repository.json"


def with_local_tables(parameters: Mapping[str, Any], storage: StorageLocation) -> dict[str, Any]:
    """Return the parameters with ``advisor`` pointing to local tables.

    If ``storage`` is an object store, the tables of git_ingest are copied next to the search
    index; later calls fetch only new parts. Otherwise the parameters are returned unchanged.

    Args:
        parameters: All parameters of the project.
        storage: Where git_ingest writes, with its credentials.

    Raises:
        TableError: git_ingest has not run with this storage.
        StorageError: The store is not reachable, or there is no space for the copy.
    """
    if not isinstance(storage, StorePath):
        return dict(parameters)
    advisor = AdvisorParams.model_validate(parameters["advisor"])
    folder = advisor.index_folder / _LOCAL_FOLDER
    local = {
        "tables_folder": str(folder), "repository_file": str(folder / _REPOSITORY),
    }  # fmt: skip
    try:
        # Nobody else changes the copies, or indexes them, meanwhile.
        with index_lock(advisor.index_folder):
            _update_copies(storage, folder)
    except OSError as error:
        raise StorageError(
            f"The tables of {storage} cannot be copied to {folder}: {explain(error)} "
            "Then ask again."
        ) from error
    return {**parameters, "advisor": {**parameters["advisor"], **local}}


def _update_copies(storage: StorePath, folder: Path) -> None:
    tables = storage / "02_intermediate"
    try:
        repository, counts = _descriptions(storage)
        check_tables_complete(tables, parse_json_with_checksum(repository))
        # Removed first and written last: without it the copies are incomplete.
        copied_counts = folder / COUNTS
        if not copied_counts.is_file() or copied_counts.read_text(encoding="utf-8") != counts:
            copied_counts.unlink(missing_ok=True)
        with progress_bar("Fetching the tables to search", len(TABLES)) as bar:
            for name in TABLES:
                ParquetTable(tables / name).ensure_local(folder / name)
                bar.advance()
        if (repository, counts) != _descriptions(storage):
            raise TableReplacedError(f"A run has replaced the tables of {storage} meanwhile.")
    except TableReplacedError as error:
        if not (folder / _REPOSITORY).is_file():
            raise
        _log.warning("%s", error, extra={"markup": False})
        return  # the index of the tables before is searched
    except (FileNotFoundError, TableError) as error:
        raise TableError(
            f"There is nothing to search in {storage} yet. Run `kedro run --pipeline=git_ingest` "
            "with this storage.folder first, or ask without retrieval (--no-retrieval)."
        ) from error
    write_durably(folder / _REPOSITORY, repository)
    write_durably(copied_counts, counts)


def _descriptions(storage: StorePath) -> tuple[str, str]:
    """Return what git_ingest stores first and last: the repository, and the snapshots' counts."""
    repository = (storage / "01_raw" / _REPOSITORY).read_text()
    counts = storage / "02_intermediate" / COUNTS
    return repository, counts.read_text() if counts.exists() else "[]"
