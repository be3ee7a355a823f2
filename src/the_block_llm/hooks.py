"""What happens around a run: early checks, the stage that is running, the summary."""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import yaml
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import LOGGING
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from the_block_llm.datasets.object_store import StorageLocation, StorePath, check_writable
from the_block_llm.datasets.storage import storage_location
from the_block_llm.errors import RepositoryError, StorageError
from the_block_llm.memory import trim_heap
from the_block_llm.project.parameter_checks import check_parameters
from the_block_llm.project.run_options import check_inputs, check_repository
from the_block_llm.project.run_summary import print_summary
from the_block_llm.viz.statistics import write_viz_statistics

_log = logging.getLogger(__name__)
_LEAST_FREE_BYTES: Final = 512 * 1024 * 1024


class ProjectHooks:
    """Hooks of every run of this project."""

    def __init__(self) -> None:
        self._project = Path.cwd()
        self._came_from = self._project
        self._storage: StorageLocation = self._project / "data"
        self._started = 0.0
        self._order: list[str] = []

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check every parameter before anything is loaded."""
        self._project = Path(context.project_path)
        _log_as_in_the_project(self._project)
        check_parameters(context.config_loader["parameters"])
        self._storage = storage_location(context.config_loader)

    @hook_impl
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Refuse early what would fail late: no git, nothing to begin with, nowhere to write."""
        del run_params
        self._order = [node.name for node in pipeline.nodes]
        with contextlib.chdir(self._project):
            if shutil.which("git") is None:
                raise RepositoryError(
                    "git is not installed or not on PATH; this project reads repositories with "
                    "it. Install it (https://git-scm.com/downloads) and run again."
                )
            _check_storage(self._project / "data")
            check_inputs(pipeline, catalog)
            store = self._storage
            if isinstance(store, StorePath) and _writes_to(store, pipeline, catalog):
                check_writable(store)
            if "find_repositories" in self._order:
                check_repository(
                    catalog.load("params:repository"), catalog.load("params:repositories")
                )
        # Relative paths in parameters mean the project's, from a notebook's folder as well.
        self._came_from = Path.cwd()
        os.chdir(self._project)
        self._started = time.monotonic()

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Say which stage begins, with what the stages before it need no longer given back."""
        trim_heap()
        position = self._order.index(node.name) + 1 if node.name in self._order else 0
        _log.info("[%d/%d] %s", position, len(self._order), node.name.replace("_", " "))

    @hook_impl(trylast=True)  # Kedro-Viz writes its own file of statistics before
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Print what came out, from the reports that this run wrote."""
        write_viz_statistics(self._project, catalog)
        print_summary(catalog, pipeline.all_outputs(), time.monotonic() - self._started)
        os.chdir(self._came_from)

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Leave the notebook where it was."""
        os.chdir(self._came_from)


def _log_as_in_the_project(project: Path) -> None:
    # Kedro looks for it in the folder where Python was started, and else tells every dataset that
    # it loads: in a notebook, pages of it.
    settings = project / "conf/logging.yml"
    elsewhere = not Path("conf/logging.yml").exists() and "KEDRO_LOGGING_CONFIG" not in os.environ
    if elsewhere and settings.is_file():
        LOGGING.configure(yaml.safe_load(settings.read_text(encoding="utf-8")))


def _writes_to(store: StorePath, pipeline: Pipeline, catalog: DataCatalog) -> bool:
    entries = catalog.config_resolver.config
    places = (entries.get(name, {}).get("filepath", "") for name in pipeline.all_outputs())
    return any(str(where).startswith(store.url) for where in places)


def _check_storage(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as error:
        raise StorageError(
            f"{folder} is a file, and a run needs a folder of that name. Rename it."
        ) from error
    except OSError as error:
        raise StorageError(
            f"Cannot write to {folder}: {error.strerror}. Make it writable, or run in a copy of "
            "the project that is."
        ) from error
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE_BYTES:
        raise StorageError(
            f"Only {free / 2**20:,.0f} MB are free under {folder}; a run needs at least "
            f"{_LEAST_FREE_BYTES / 2**20:,.0f} MB. Free some space, then run again."
        )
