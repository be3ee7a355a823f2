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

from the_block_llm.datasets.object_store import (
    StorageLocation,
    StorePath,
    check_writable,
    resolve_location,
)
from the_block_llm.datasets.storage import storage_location
from the_block_llm.errors import StorageError
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.memory import trim_heap
from the_block_llm.os_errors import explain
from the_block_llm.pipelines.git_ingest.git.program import require_git
from the_block_llm.pipelines.git_ingest.params import GitIngestParams
from the_block_llm.project.parameter_checks import check_parameters
from the_block_llm.project.run_lock import RunLock
from the_block_llm.project.run_options import (
    check_ingest_complete,
    check_inputs,
    check_model,
    check_repository,
)
from the_block_llm.project.run_summary import print_summary
from the_block_llm.viz.statistics import write_viz_statistics

_log = logging.getLogger(__name__)
_CACHE_NODES: Final = {"find_repositories", "read_commits", "read_files"}
_MIN_FREE_BYTES: Final = 512 * 1024 * 1024


class ProjectHooks:
    """Hooks that run in every Kedro session of this project."""

    def __init__(self) -> None:
        self._project = Path.cwd()
        self._previous_folder = self._project
        self._storage: StorageLocation = self._project / "data"
        self._parameters: dict[str, Any] = {}
        self._lock: RunLock | None = None
        self._cache_nodes: set[str] = set()
        self._started = 0.0
        self._node_names: list[str] = []

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check every parameter before anything is loaded."""
        self._project = Path(context.project_path)
        _configure_logging(self._project)
        self._parameters = context.config_loader["parameters"]
        check_parameters(self._parameters)
        self._storage = storage_location(context.config_loader)

    @hook_impl(trylast=True)  # after the hooks of plugins: if one fails, Kedro calls no other hook
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Wait for other runs; check early for git, existing inputs and a writable storage."""
        del run_params
        node_names = [node.name for node in pipeline.nodes]
        data = self._project / "data"
        _check_data_folder(data)
        execution = ExecutionParams.model_validate(self._parameters.get("execution") or {})
        lock = self._run_lock(data, pipeline, catalog)
        lock.acquire(execution.lock_timeout_s)
        try:
            with contextlib.chdir(self._project):
                self._check(pipeline, catalog, node_names)
        except BaseException:
            lock.release()
            raise
        self._lock, self._node_names = lock, node_names
        # Relative paths in parameters are relative to the project, also in a notebook's folder.
        self._previous_folder = Path.cwd()
        os.chdir(self._project)
        self._started = time.monotonic()

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Return the freed memory of earlier nodes to the system and log the node that starts."""
        if self._lock is not None:
            self._lock.check()
        trim_heap()
        position = self._node_names.index(node.name) + 1 if node.name in self._node_names else 0
        _log.info("[%d/%d] %s", position, len(self._node_names), node.name.replace("_", " "))

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        """Let other projects use the cache of shards after the last node that reads it."""
        self._cache_nodes.discard(node.name)
        if self._lock is not None and not self._cache_nodes:
            self._lock.release_cache()

    @hook_impl(trylast=True)  # after the hook of Kedro-Viz, which writes the same statistics file
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Write table statistics, print the summary of the run, and let other runs begin."""
        try:
            write_viz_statistics(self._project, catalog)
            print_summary(catalog, pipeline.all_outputs(), time.monotonic() - self._started)
        finally:
            self._end()

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Restore the working directory, and let other runs begin."""
        self._end()

    def _run_lock(self, data: Path, pipeline: Pipeline, catalog: DataCatalog) -> RunLock:
        cache: Path | None = None
        storage: StorageLocation | None = None
        if _writes_to(self._storage, pipeline, catalog):
            storage = self._storage
            if isinstance(storage, Path):
                storage = self._project / storage
        self._cache_nodes = _CACHE_NODES & {node.name for node in pipeline.nodes}
        if self._cache_nodes:
            params = GitIngestParams.model_validate(self._parameters.get("git_ingest") or {})
            cache = self._project / params.cache_folder
        return RunLock(data, storage, cache)

    def _check(self, pipeline: Pipeline, catalog: DataCatalog, node_names: list[str]) -> None:
        require_git()
        check_inputs(pipeline, catalog)
        check_ingest_complete(pipeline, catalog)
        store = self._storage
        if isinstance(store, StorePath) and _writes_to(store, pipeline, catalog):
            check_writable(store)
        if "find_repositories" in node_names:
            check_repository(catalog.load("params:repository"), catalog.load("params:repositories"))
        check_model(pipeline, catalog)

    def _end(self) -> None:
        os.chdir(self._previous_folder)
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _configure_logging(project: Path) -> None:
    """Apply the project's logging configuration if Kedro did not find it.

    Kedro looks for it only in the working directory. Without it, Kedro logs every dataset that it
    loads, which fills the output of a notebook.
    """
    config = project / "conf/logging.yml"
    is_default = not Path("conf/logging.yml").exists() and "KEDRO_LOGGING_CONFIG" not in os.environ
    if is_default and config.is_file():
        LOGGING.configure(yaml.safe_load(config.read_text(encoding="utf-8")))


def _writes_to(storage: StorageLocation, pipeline: Pipeline, catalog: DataCatalog) -> bool:
    entries = catalog.config_resolver.config
    for name in pipeline.all_outputs():
        location = resolve_location(str(entries.get(name, {}).get("filepath", "")))
        if isinstance(location, Path) and isinstance(storage, Path):
            if location.is_relative_to(storage):
                return True
        elif isinstance(storage, StorePath) and str(location).startswith(storage.url):
            return True
    return False


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
