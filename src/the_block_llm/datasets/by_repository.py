"""The rows of one repository out of a table that holds hundreds, without reading the others'."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pyarrow.compute as pc

from the_block_llm.datasets.object_store import StorageLocation
from the_block_llm.datasets.parquet_files import open_parquet
from the_block_llm.datasets.parquet_table import ParquetTable

_COLUMN: Final = "repo"
_PATHS: Final = ("path", "old_path")


class RowSource(Protocol):
    """A table, or the part of one that belongs to a repository."""

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows in order as dictionaries."""
        ...


@dataclass(frozen=True)
class RepositoryRows:
    """The rows of one repository in the order of the table."""

    name: str
    places: Sequence[tuple[StorageLocation, Sequence[int]]]
    """Parts that hold such rows, and the row groups in them."""
    prefix: str = ""
    """Stands before every path."""

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows as dictionaries."""
        for part, groups in self.places:
            with open_parquet(part) as reader:
                batches = reader.iter_batches(
                    batch_size=256, row_groups=list(groups), columns=[*columns, _COLUMN]
                )
                for batch in batches:
                    for row in batch.filter(pc.equal(batch[_COLUMN], self.name)).to_pylist():
                        del row[_COLUMN]
                        yield {
                            key: f"{self.prefix}{value}" if key in _PATHS and value else value
                            for key, value in row.items()
                        }


class RepositoryRowIndex:
    """Where in a table the rows of each repository lie; read once from the parts' statistics."""

    def __init__(self, table: ParquetTable) -> None:
        self._places: dict[str, list[tuple[StorageLocation, list[int]]]] = defaultdict(list)
        for part in table.parts:
            for name, groups in _groups_by_name(part).items():
                self._places[name].append((part, groups))

    def of(self, name: str, prefix: str = "") -> RepositoryRows:
        """The rows of the repository of that name; none where the table has none."""
        return RepositoryRows(name, self._places.get(name, ()), prefix)


def _groups_by_name(part: StorageLocation) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    with open_parquet(part) as reader:
        column = reader.schema_arrow.get_field_index(_COLUMN)
        for group in range(reader.metadata.num_row_groups):
            statistics = reader.metadata.row_group(group).column(column).statistics
            if (
                statistics is not None
                and statistics.has_min_max
                and (statistics.min == statistics.max)
            ):
                names = [statistics.min]
            else:
                read = reader.read_row_group(group, columns=[_COLUMN])
                names = pc.unique(read[_COLUMN]).to_pylist()
            for name in names:
                found[name].append(group)
    return found
