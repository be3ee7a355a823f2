"""What `kedro run` was asked to run, checked before anything is loaded.

Kedro itself finds most of these mistakes too, and then prints a traceback.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from kedro.framework.project import pipelines
from kedro.io import DataCatalog, DatasetError
from kedro.pipeline import Pipeline

from the_block_llm.errors import ParameterError, TableError, did_you_mean, user_error_cause
from the_block_llm.pipelines.git_ingest.git.repository import is_url, locate

_NODES: Final = {
    "node_names": "--nodes",
    "from_nodes": "--from-nodes",
    "to_nodes": "--to-nodes",
}
_DATASETS: Final = {"from_inputs": "--from-inputs", "to_outputs": "--to-outputs"}
_RUNNERS: Final = ("ParallelRunner", "SequentialRunner", "ThreadRunner")


def check_run_options(options: Mapping[str, Any]) -> None:
    """Check that every pipeline, node, dataset, tag and runner that is named exists.

    Args:
        options: As the command line of ``kedro run`` gives them.

    Raises:
        ParameterError: A name that does not exist, with the nearest one that does; or an option
            of Kedro that has nothing to choose from here.
    """
    one, several = options.get("pipeline"), options.get("pipelines") or ()
    _require("pipeline", [one] if one else [], pipelines.keys(), "--pipeline")
    _require("pipeline", several, pipelines.keys(), "--pipelines")
    chosen = [name for name in (one, *several) if name] or ["__default__"]
    whole = sum((pipelines[name] for name in chosen), start=Pipeline([]))
    nodes = [node.name for node in whole.nodes]
    for option, flag in _NODES.items():
        _require("node", options.get(option) or (), nodes, flag)
    for option, flag in _DATASETS.items():
        _require("dataset", options.get(option) or (), whole.datasets(), flag)
    tags = {tag for node in whole.nodes for tag in node.tags}
    _require("tag", options.get("tags") or (), tags, "--tags")
    runner = options.get("runner")
    # One of another package is named with its module.
    _require("runner", [runner] if runner and "." not in runner else [], _RUNNERS, "--runner")
    if options.get("namespaces"):
        raise ParameterError("--namespaces: no node here has one. Choose by --tags or --nodes.")
    if options.get("load_versions"):
        raise ParameterError(
            "--load-versions: Kedro versions none of the datasets here. Adapters have versions of "
            "their own: `kedro adapters list` shows them, and `kedro ask --adapter` and "
            "behavioral_eval.further_models take one."
        )


def check_inputs(pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Check that what a part of a pipeline begins with is there.

    Args:
        pipeline: What is about to run.
        catalog: Holds what is kept; other datasets live within one run only.

    Raises:
        TableError: Something is kept nowhere, or not there yet, with what makes it.
        AdapterError: The same, of an adapter.
    """
    kept = set(catalog.keys())
    inputs = sorted(
        name for name in pipeline.inputs() if not name.startswith(("params:", "parameters"))
    )
    lacking = [name for name in inputs if name not in kept]
    if lacking:
        makers = sorted(
            node.name
            for node in sum(pipelines.values(), start=Pipeline([])).nodes
            if set(node.outputs) & set(lacking)
        )
        raise TableError(
            f"{', '.join(lacking)} is made and read within one run and kept nowhere. Run what "
            f"makes it as well: --nodes={','.join([*makers, *(n.name for n in pipeline.nodes)])}"
        )
    for name in inputs:
        if not catalog.exists(name):
            _say_what_is_missing(name, catalog)


def _say_what_is_missing(name: str, catalog: DataCatalog) -> None:
    try:
        catalog.load(name)  # says whether it is missing or damaged, and where
    except DatasetError as error:
        cause = user_error_cause(error)
        if not isinstance(cause, TableError):
            raise
        # In order: the whole run, which makes everything, comes last.
        makers = (key for key, part in pipelines.items() if name in part.all_outputs())
        raise TableError(f"{cause} Here that pipeline is {next(makers)}.") from error


def check_repository(repository: str, several: object) -> None:
    """Check that the one repository to read is there, before a model is unpacked or fetched.

    A URL, a bundle and a list of repositories are looked at when their turn comes.

    Args:
        repository: Path or URL, as the parameter gives it.
        several: The parameter ``repositories``, which takes its place where it is not empty.

    Raises:
        RepositoryError: There is no repository at that path.
    """
    if not several and not is_url(repository) and not Path(repository).expanduser().is_file():
        locate(repository, clone_folder=Path())  # of a folder nothing is cloned


def _require(what: str, names: Iterable[str], known: Iterable[str], flag: str) -> None:
    there = sorted(known)
    for name in names:
        if name not in there:
            hint = did_you_mean(name, there)
            raise ParameterError(
                f"{flag}: there is no {what} {name}.{hint} Known: {', '.join(there)}."
            )
