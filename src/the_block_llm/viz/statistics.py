"""Rows, columns and bytes of every table, where Kedro-Viz looks for them.

Kedro-Viz counts data frames as they pass by. Tables here are streamed and never are one.
"""

import json
from pathlib import Path
from typing import Final

from kedro.io import DataCatalog

from the_block_llm.datasets.parquet_table import write_text_atomically
from the_block_llm.datasets.parquet_table_dataset import ParquetTableDataset

_FILE: Final = Path(".viz/stats.json")
_TABLE: Final = f"{ParquetTableDataset.__module__}.{ParquetTableDataset.__qualname__}"


def write_viz_statistics(project: Path, catalog: DataCatalog) -> None:
    """Write the statistics of every table that there is.

    Args:
        project: Folder of the project.
        catalog: Names the tables; no dataset of another kind is built.
    """
    statistics = {}
    for name, entry in sorted(catalog.config_resolver.config.items()):
        # By the entry alone: building every dataset would import matplotlib, for one.
        if entry.get("type") == _TABLE:
            dataset = catalog.get(name)
            if isinstance(dataset, ParquetTableDataset) and dataset.exists():
                statistics[name] = dataset.statistics()
    write_text_atomically(project / _FILE, json.dumps(statistics, indent=1))
