"""Read the rows of one repository from a table of many, by an index of row groups."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pyarrow.compute as pc

from the_block_llm.datasets.object_store import StorageLocation
from the_block_llm.datasets.parquet_files import open_parquet
from the_block_llm.datasets.parquet_table import ParquetTable

_REPOSITORY_COLUMN: Final = "repo"
_PATH_COLUMNS: Final = ("path", "old_path")


class RowSource(Protocol):
    """A table, or the rows of one repository in it."""

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows in table order, as dictionaries."""
        ...


@dataclass(frozen=True)
class RepositoryRows:
    """The rows of one repository, in table order."""

    name: str
    row_groups: Sequence[tuple[StorageLocation, Sequence[int]]]
    """Parts that contain such rows, with the numbers of the row groups."""
    prefix: str = ""
    """Prepended to every path."""

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows as dictionaries."""
        for part, groups in self.row_groups:
            with open_parquet(part) as reader:
                batches = reader.iter_batches(
                    batch_size=256, row_groups=list(groups), columns=[*columns, _REPOSITORY_COLUMN]
                )
                for batch in batches:
                    for row in batch.filter(
                        pc.equal(batch[_REPOSITORY_COLUMN], self.name)
                    ).to_pylist():
                        del row[_REPOSITORY_COLUMN]
                        yield {
                            key: f"{self.prefix}{value}"
                            if key in _PATH_COLUMNS and value
                            else value
                            for key, value in row.items()
                        }


class RepositoryRowIndex:
    """Index of the row groups of each repository, built from the statistics of the parts."""

    def __init__(self, table: ParquetTable) -> None:
        self._row_groups: dict[str, list[tuple[StorageLocation, list[int]]]] = defaultdict(list)
        for part in table.parts:
            for name, groups in _row_groups_by_repository(part).items():
                self._row_groups[name].append((part, groups))

    def rows_of(self, name: str, prefix: str = "") -> RepositoryRows:
        """Return the rows of a repository; empty if the table has none."""
        return RepositoryRows(name, self._row_groups.get(name, ()), prefix)


def _row_groups_by_repository(part: StorageLocation) -> dict[str, list[int]]:
    groups_by_name: dict[str, list[int]] = defaultdict(list)
    with open_parquet(part) as reader:
        column = reader.schema_arrow.get_field_index(_REPOSITORY_COLUMN)
        for group in range(reader.metadata.num_row_groups):
            statistics = reader.metadata.row_group(group).column(column).statistics
            if (
                statistics is not None
                and statistics.has_min_max
                and (statistics.min == statistics.max)
            ):
                names = [statistics.min]
            else:
                rows = reader.read_row_group(group, columns=[_REPOSITORY_COLUMN])
                names = pc.unique(rows[_REPOSITORY_COLUMN]).to_pylist()
            for name in names:
                groups_by_name[name].append(group)
    return groups_by_name
