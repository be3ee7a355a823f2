"""Checks the options and inputs of `kedro run` before anything is loaded.

Kedro reports most of these errors as well, but with a traceback.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from kedro.framework.project import pipelines
from kedro.io import DataCatalog, DatasetError
from kedro.pipeline import Pipeline

from the_block_llm.datasets.cutoff import tables_are_complete
from the_block_llm.errors import (
    ParameterError,
    TableError,
    TableReplacedError,
    did_you_mean,
    user_error_cause,
)
from the_block_llm.models.profiles import ModelProfiles, resolve_profile
from the_block_llm.pipelines.git_ingest.git.repository import check_source

_NODE_OPTIONS: Final = {
    "node_names": "--nodes",
    "from_nodes": "--from-nodes",
    "to_nodes": "--to-nodes",
}
_DATASET_OPTIONS: Final = {"from_inputs": "--from-inputs", "to_outputs": "--to-outputs"}
# Nodes with these tags read the model's tokenizer or its weights.
_MODEL_TAGS: Final = frozenset({"documents", "rows", "model"})
_INGESTED_TABLES: Final = frozenset({"commits", "file_changes", "snapshot_files"})
_INGEST_OUTPUTS: Final = _INGESTED_TABLES | {"repository", "overlaps", "ingest_report"}
_RUNNERS: Final = ("ParallelRunner", "SequentialRunner", "ThreadRunner")


def check_run_options(options: Mapping[str, Any]) -> None:
    """Check that every given pipeline, node, dataset, tag and runner exists.

    Args:
        options: Options of the command line of ``kedro run``.

    Raises:
        ParameterError: A name does not exist, or an option does not apply to this project. The
            message suggests the closest existing name.
    """
    single, multiple = options.get("pipeline"), options.get("pipelines") or ()
    _require("pipeline", [single] if single else [], pipelines.keys(), "--pipeline")
    _require("pipeline", multiple, pipelines.keys(), "--pipelines")
    chosen = [name for name in (single, *multiple) if name] or ["__default__"]
    selected = sum((pipelines[name] for name in chosen), start=Pipeline([]))
    nodes = [node.name for node in selected.nodes]
    for option, flag in _NODE_OPTIONS.items():
        _require("node", options.get(option) or (), nodes, flag)
    for option, flag in _DATASET_OPTIONS.items():
        _require("dataset", options.get(option) or (), selected.datasets(), flag)
    tags = {tag for node in selected.nodes for tag in node.tags}
    _require("tag", options.get("tags") or (), tags, "--tags")
    runner = options.get("runner")
    # A runner of another package is given with its module.
    _require("runner", [runner] if runner and "." not in runner else [], _RUNNERS, "--runner")
    if options.get("namespaces"):
        raise ParameterError(
            "--namespaces: no node of this project has one. Use --tags or --nodes."
        )
    if options.get("load_versions"):
        raise ParameterError(
            "--load-versions: no dataset of this project is versioned by Kedro. Adapters have "
            "their own versions: `kedro adapters list` shows them, and `kedro ask --adapter` and "
            "behavioral_eval.further_models accept one."
        )


def check_inputs(pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Check that the inputs of a pipeline, or of a part of one, exist.

    Args:
        pipeline: The pipeline to run.
        catalog: Catalog of stored datasets; other datasets exist only in memory during a run.

    Raises:
        TableError: An input does not exist; the message names the nodes or the pipeline that
            create it.
        AdapterError: The input adapter does not exist.
    """
    stored = set(catalog.keys())
    inputs = sorted(
        name for name in pipeline.inputs() if not name.startswith(("params:", "parameters"))
    )
    in_memory = [name for name in inputs if name not in stored]
    if in_memory:
        producers = sorted(
            node.name
            for node in sum(pipelines.values(), start=Pipeline([])).nodes
            if set(node.outputs) & set(in_memory)
        )
        raise TableError(
            f"{', '.join(in_memory)} exists only in memory during a run. Run the nodes that create "
            f"it too: --nodes={','.join([*producers, *(n.name for n in pipeline.nodes)])}"
        )
    for name in inputs:
        if not catalog.exists(name):
            _raise_missing_input(name, catalog)


def check_ingest_complete(pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Check that the tables of git_ingest, if other pipelines read them, come from one run.

    Args:
        pipeline: The pipeline to run, whose inputs exist.
        catalog: Catalog of the project.

    Raises:
        TableReplacedError: The last run of git_ingest was stopped, or ran only some of its nodes.
    """
    if not _INGESTED_TABLES & pipeline.inputs() or _INGEST_OUTPUTS & pipeline.all_outputs():
        return
    repository = catalog.load("repository")
    counts = catalog.load("snapshot_counts") if catalog.exists("snapshot_counts") else []
    if not tables_are_complete(repository, counts):
        raise TableReplacedError(
            f"The tables of git_ingest are incomplete: its run that began at "
            f"{repository['pinned_at']} was stopped, or wrote only some of them, and the others "
            "are those of an earlier run. Run `kedro run --pipeline=git_ingest`, which reads only "
            "what is not cached."
        )


def _raise_missing_input(name: str, catalog: DataCatalog) -> None:
    try:
        catalog.load(name)  # its error says whether it is missing or damaged, and where
    except DatasetError as error:
        cause = user_error_cause(error)
        if not isinstance(cause, TableError):
            raise
        # In order of registration: __default__, which contains every node, is last.
        producers = (key for key, part in pipelines.items() if name in part.all_outputs())
        raise TableError(f"{cause} That pipeline is {next(producers)}.") from error


def check_repository(repository: str, repositories: object) -> None:
    """Check that a local repository exists, before a model is unpacked or downloaded.

    URLs, bundles and lists of repositories are checked only when they are read.

    Args:
        repository: The parameter ``repository``: a path or URL.
        repositories: The parameter ``repositories``, which overrides it if not empty.

    Raises:
        RepositoryError: There is no repository at that path, or it cannot be read.
    """
    if not repositories:
        check_source(repository)


def check_model(pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Check that a model of the Hub can be had, before the repository is read.

    Raises:
        ModelUnavailableError: The Hub cannot be reached or refuses the model.
    """
    if not any(
        "params:models" in node.inputs and node.tags & _MODEL_TAGS for node in pipeline.nodes
    ):
        return
    profiles = ModelProfiles.model_validate(catalog.load("params:models"))
    profile = resolve_profile(profiles, catalog.load("params:model"))
    if profile.hub_id is not None:
        # Imported here, since other profiles do not need the library.
        from the_block_llm.models.base.hub import check_hub  # noqa: PLC0415

        check_hub(profile)


def _require(what: str, names: Iterable[str], known: Iterable[str], flag: str) -> None:
    available = sorted(known)
    for name in names:
        if name not in available:
            hint = did_you_mean(name, available)
            raise ParameterError(
                f"{flag}: there is no {what} {name}.{hint} Known: {', '.join(available)}."
            )
