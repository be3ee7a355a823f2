"""Access of command-line programs to a project's parameters and catalog entries."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from the_block_llm.datasets.object_store import StorageLocation


@dataclass(frozen=True)
class Project:
    """A configured project; created by the command line, does not import Kedro."""

    parameters: Mapping[str, Any]
    folder_of: Callable[[str], StorageLocation]
    """Return the folder or file of a catalog entry, for the selected model."""


OpenProject = Callable[[str | None, str | None], Project]
"""Opens a project, given a configuration environment and a model; None: the configured ones."""
