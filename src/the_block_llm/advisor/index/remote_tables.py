"""Local copies of tables in an object store, for the search index."""

from collections.abc import Mapping
from typing import Any, Final

from the_block_llm.advisor.index.repository_index import TABLES
from the_block_llm.advisor.params import AdvisorParams
from the_block_llm.datasets.object_store import StorageLocation, StorePath
from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.datasets.report_files import read_report, write_report
from the_block_llm.errors import TableError
from the_block_llm.progress import progress_bar

_LOCAL_FOLDER: Final = ".tables"


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
    repository_file = folder / "repository.json"
    try:
        description = read_report(storage / "01_raw" / "repository.json")
        with progress_bar("Fetching the tables to search", len(TABLES)) as bar:
            for name in TABLES:
                table = ParquetTable(storage / "02_intermediate" / name)
                table.ensure_local(folder / name)
                bar.advance()
    except TableError as error:
        raise TableError(
            f"There is nothing to search in {storage} yet. Run `kedro run --pipeline=git_ingest` "
            "with this storage.folder first, or ask without retrieval (--no-retrieval)."
        ) from error
    write_report(repository_file, description)
    local = {"tables_folder": str(folder), "repository_file": str(repository_file)}
    return {**parameters, "advisor": {**parameters["advisor"], **local}}
