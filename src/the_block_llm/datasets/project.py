"""A project as its commands need it: what it is set to, and where its tables and reports lie."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from the_block_llm.datasets.object_store import StorageLocation


@dataclass(frozen=True)
class Project:
    """Made by the command line from the configuration; nothing here knows Kedro."""

    parameters: Mapping[str, Any]
    folder_of: Callable[[str], StorageLocation]
    """Folder or file of a catalog entry, for the chosen model."""


OpenProject = Callable[[str | None, str | None], Project]
"""From a configuration environment and a model, or none for what is configured."""
