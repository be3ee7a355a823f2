"""What `kedro run` was asked to run, checked before anything is loaded.

Kedro itself finds most of these mistakes too, and then prints a traceback.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from kedro.framework.project import pipelines
from kedro.pipeline import Pipeline

from the_block_llm.errors import ParameterError, TableError
from the_block_llm.pipelines.git_ingest.source import is_url, locate

_NODES: Final = {
    "node_names": "--nodes",
    "from_nodes": "--from-nodes",
    "to_nodes": "--to-nodes",
}
_DATASETS: Final = {"from_inputs": "--from-inputs", "to_outputs": "--to-outputs"}


def check_run_options(options: Mapping[str, Any], project: Path) -> None:
    """Check that every pipeline, node, dataset, tag and environment that is named exists.

    Args:
        options: As the command line of ``kedro run`` gives them.
        project: Folder of the project.

    Raises:
        ParameterError: A name that does not exist, with the nearest one that does.
    """
    names = [options.get("pipeline"), *(options.get("pipelines") or ())]
    chosen = [name for name in names if name]
    _require("pipeline", chosen, pipelines.keys(), "--pipeline")
    whole = sum((pipelines[name] for name in chosen or ["__default__"]), start=Pipeline([]))
    nodes = [node.name for node in whole.nodes]
    for option, flag in _NODES.items():
        _require("node", options.get(option) or (), nodes, flag)
    for option, flag in _DATASETS.items():
        _require("dataset", options.get(option) or (), whole.datasets(), flag)
    tags = {tag for node in whole.nodes for tag in node.tags}
    _require("tag", options.get("tags") or (), tags, "--tags")
    if options.get("env"):
        folders = {path.name for path in (project / "conf").iterdir() if path.is_dir()}
        _require("environment", [options["env"]], folders, "--env")


def check_inputs(pipeline: Pipeline, held: Collection[str]) -> None:
    """Check that a part of a pipeline does not begin with what only an earlier node could give.

    Args:
        pipeline: What is about to run.
        held: Names of the datasets in the catalog; others live within one run only.

    Raises:
        TableError: Something is not kept, with the node that makes it.
    """
    kept = set(held)
    lacking = sorted(
        name
        for name in pipeline.inputs()
        if name not in kept and not name.startswith(("params:", "parameters"))
    )
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
            near = difflib.get_close_matches(name, there, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ParameterError(
                f"{flag}: there is no {what} {name}.{hint} Known: {', '.join(there)}."
            )
