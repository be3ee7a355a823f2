"""Rows, columns and bytes of every table, written to the statistics file of Kedro-Viz.

Kedro-Viz itself counts only data frames; the tables here are streamed and never in one data frame.
"""

import contextlib
import json
from pathlib import Path
from typing import Final

from kedro.io import DataCatalog

from the_block_llm.datasets.parquet_table import write_text_atomically
from the_block_llm.datasets.parquet_table_dataset import ParquetTableDataset
from the_block_llm.errors import TableError

_FILE: Final = Path(".viz/stats.json")
_TABLE_TYPE: Final = f"{ParquetTableDataset.__module__}.{ParquetTableDataset.__qualname__}"


def write_viz_statistics(project: Path, catalog: DataCatalog) -> None:
    """Write the statistics of every existing table.

    Args:
        project: Folder of the project.
        catalog: Catalog with the tables; datasets of other types are not instantiated.
    """
    statistics = {}
    for name, entry in sorted(catalog.config_resolver.config.items()):
        # Checked in the configuration: instantiating all datasets would import matplotlib.
        if entry.get("type") == _TABLE_TYPE:
            dataset = catalog.get(name)
            if isinstance(dataset, ParquetTableDataset):
                # Not `exists`, which reads a table for its checksums.
                with contextlib.suppress(TableError):
                    statistics[name] = dataset.statistics()
    write_text_atomically(project / _FILE, json.dumps(statistics, indent=1))
