"""Kedro hooks: checks before a run, progress per node, summary after the run."""

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
from the_block_llm.errors import StorageError
from the_block_llm.memory import trim_heap
from the_block_llm.os_errors import explain
from the_block_llm.pipelines.git_ingest.git.program import require_git
from the_block_llm.project.parameter_checks import check_parameters
from the_block_llm.project.run_options import check_inputs, check_model, check_repository
from the_block_llm.project.run_summary import print_summary
from the_block_llm.viz.statistics import write_viz_statistics

_log = logging.getLogger(__name__)
_MIN_FREE_BYTES: Final = 512 * 1024 * 1024


class ProjectHooks:
    """Hooks that run in every Kedro session of this project."""

    def __init__(self) -> None:
        self._project = Path.cwd()
        self._previous_folder = self._project
        self._storage: StorageLocation = self._project / "data"
        self._started = 0.0
        self._node_names: list[str] = []

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check every parameter before anything is loaded."""
        self._project = Path(context.project_path)
        _configure_logging(self._project)
        check_parameters(context.config_loader["parameters"])
        self._storage = storage_location(context.config_loader)

    @hook_impl
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Check early for git, existing inputs and a writable storage."""
        del run_params
        self._node_names = [node.name for node in pipeline.nodes]
        with contextlib.chdir(self._project):
            require_git()
            _check_data_folder(self._project / "data")
            check_inputs(pipeline, catalog)
            store = self._storage
            if isinstance(store, StorePath) and _writes_to(store, pipeline, catalog):
                check_writable(store)
            if "find_repositories" in self._node_names:
                check_repository(
                    catalog.load("params:repository"), catalog.load("params:repositories")
                )
            check_model(pipeline, catalog)
        # Relative paths in parameters are relative to the project, also in a notebook's folder.
        self._previous_folder = Path.cwd()
        os.chdir(self._project)
        self._started = time.monotonic()

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Return the freed memory of earlier nodes to the system and log the node that starts."""
        trim_heap()
        position = self._node_names.index(node.name) + 1 if node.name in self._node_names else 0
        _log.info("[%d/%d] %s", position, len(self._node_names), node.name.replace("_", " "))

    @hook_impl(trylast=True)  # after the hook of Kedro-Viz, which writes the same statistics file
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Write table statistics and print the summary of the run."""
        write_viz_statistics(self._project, catalog)
        print_summary(catalog, pipeline.all_outputs(), time.monotonic() - self._started)
        os.chdir(self._previous_folder)

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Restore the working directory."""
        os.chdir(self._previous_folder)


def _configure_logging(project: Path) -> None:
    """Apply the project's logging configuration if Kedro did not find it.

    Kedro looks for it only in the working directory. Without it, Kedro logs every dataset that it
    loads, which fills the output of a notebook.
    """
    config = project / "conf/logging.yml"
    is_default = not Path("conf/logging.yml").exists() and "KEDRO_LOGGING_CONFIG" not in os.environ
    if is_default and config.is_file():
        LOGGING.configure(yaml.safe_load(config.read_text(encoding="utf-8")))


def _writes_to(store: StorePath, pipeline: Pipeline, catalog: DataCatalog) -> bool:
    entries = catalog.config_resolver.config
    filepaths = (entries.get(name, {}).get("filepath", "") for name in pipeline.all_outputs())
    return any(str(filepath).startswith(store.url) for filepath in filepaths)


def _check_data_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as error:
        raise StorageError(
            f"{folder} is a file, but a run needs a folder of that name. Rename the file."
        ) from error
    except OSError as error:
        raise StorageError(
            f"Cannot write to {folder}: {explain(error, 'run in a writable copy of the project')}"
        ) from error
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < _MIN_FREE_BYTES:
        raise StorageError(
            f"Only {free_bytes / 2**20:,.0f} MB are free under {folder}; a run needs at least "
            f"{_MIN_FREE_BYTES / 2**20:,.0f} MB. Free some space, then run again."
        )
