"""Tables that lie in an object store, brought to this machine to be searched."""

from collections.abc import Mapping
from typing import Any, Final

from the_block_llm.advisor.index.repository_index import TABLES
from the_block_llm.advisor.params import AdvisorParams
from the_block_llm.datasets.object_store import StorageLocation, StorePath
from the_block_llm.datasets.parquet_table import ParquetTable, write_text_atomically
from the_block_llm.errors import TableError
from the_block_llm.progress import progress_bar

_COPY: Final = ".tables"


def tables_at_hand(parameters: Mapping[str, Any], storage: StorageLocation) -> dict[str, Any]:
    """The parameters with ``advisor`` reading tables of this machine.

    Where ``storage`` is an object store the tables of git_ingest are copied beside the search
    index, once; a later call fetches the parts that are new. Else nothing is changed.

    Args:
        parameters: All of the project's.
        storage: Where git_ingest writes, with its credentials.

    Raises:
        TableError: git_ingest has not run with this storage.
        StorageError: The store cannot be reached, or there is no room for the copy.
    """
    if not isinstance(storage, StorePath):
        return dict(parameters)
    advisor = AdvisorParams.model_validate(parameters["advisor"])
    folder = advisor.index_folder / _COPY
    repository = folder / "repository.json"
    try:
        described = (storage / "01_raw" / "repository.json").read_text()
        with progress_bar("Fetching what is searched", len(TABLES)) as bar:
            for name in TABLES:
                table = ParquetTable(storage / "02_intermediate" / name)
                table.ensure_local(folder / name)
                bar.advance()
    except (FileNotFoundError, TableError) as error:
        raise TableError(
            f"There is nothing to search in {storage} yet. Run `kedro run --pipeline=git_ingest` "
            "with this storage.folder first, or ask without retrieval (--no-retrieval)."
        ) from error
    write_text_atomically(repository, described)
    here = {"tables_folder": str(folder), "repository_file": str(repository)}
    return {**parameters, "advisor": {**parameters["advisor"], **here}}
