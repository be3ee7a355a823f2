"""Checks all parameters before a run, with messages that name the parameter and the remedy.

Kedro validates typed node arguments too, but its message is the unedited output of pydantic.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from the_block_llm.advisor.params import AdvisorParams
from the_block_llm.datasets.storage import StorageParams
from the_block_llm.errors import ParameterError, did_you_mean
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.models.profiles import ModelProfiles, resolve_profile
from the_block_llm.pipelines.behavioral_eval.params import BehavioralEvalParams
from the_block_llm.pipelines.export.params import ExportParams
from the_block_llm.pipelines.git_ingest.params import GitIngestParams
from the_block_llm.pipelines.qlora_train.params import QloraTrainParams
from the_block_llm.pipelines.sequence_build.params import SequenceBuildParams
from the_block_llm.planning.params import PlanningParams

TYPED_PARAMETERS: Final[dict[str, type[BaseModel]]] = {
    "storage": StorageParams,
    "execution": ExecutionParams,
    "models": ModelProfiles,
    "git_ingest": GitIngestParams,
    "sequence_build": SequenceBuildParams,
    "qlora_train": QloraTrainParams,
    "behavioral_eval": BehavioralEvalParams,
    "advisor": AdvisorParams,
    "export": ExportParams,
    "planning": PlanningParams,
}
STRING_PARAMETERS: Final = ("repository", "model")
# pydantic's errors of a parameter that is a string, or has strings.
_TEXT_ERRORS: Final = frozenset({"string_type", "literal_error", "tuple_type", "list_type"})
# Old names before the renaming in CHANGELOG.md, with the current name.
RENAMED_PARAMETERS: Final = {
    "advisor.surprise_lines": "advisor.perplexity_lines",
    "advisor.serve.body_kib": "advisor.serve.max_body_kib",
    "advisor.serve.waiting": "advisor.serve.max_queued",
    "advisor.serve.wait_s": "advisor.serve.queue_timeout_s",
    "advisor.serve.answer_s": "advisor.serve.answer_timeout_s",
    "advisor.serve.shutdown_s": "advisor.serve.shutdown_timeout_s",
    "behavioral_eval.journal_folder": "behavioral_eval.result_cache_folder",
    "execution.waiting_tasks": "execution.prefetch_tasks",
    "export.least_agreement": "export.min_token_agreement",
    "export.most_nats_apart": "export.max_nll_difference",
    "qlora_train.start_anew": "qlora_train.restart_training",
    "sequence_build.reuse_folder": "sequence_build.token_cache_folder",
}


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Check names, types and ranges of all parameters, and that the chosen profile exists.

    Raises:
        ParameterError: A parameter is wrong; the message has one line for each.
        ProfileError: ``model`` is not a profile.
    """
    known = (*STRING_PARAMETERS, "repositories", *TYPED_PARAMETERS)
    problems = [_unknown_parameter(name, known, "") for name in parameters if name not in known]
    for name in STRING_PARAMETERS:
        value = parameters.get(name)
        if not isinstance(value, str) or not value:
            problems.append(
                f"{name} is {value!r}; it must be a non-empty string.{_quoting_hint(value)}"
            )
    repositories = parameters.get("repositories")
    if repositories is None:
        repositories = []
    is_list = isinstance(repositories, list) and all(isinstance(r, str) for r in repositories)
    if not is_list and not isinstance(repositories, str):
        problems.append(
            f"repositories is {repositories!r}; it must be a list of paths or URLs, a file that "
            f"lists them, or a folder of clones.{_quoting_hint(repositories)}"
        )
    for name, params_class in TYPED_PARAMETERS.items():
        try:
            params_class.model_validate(parameters.get(name) or {})
        except ValidationError as error:
            problems.extend(_describe(name, params_class, error))
    if problems:
        raise ParameterError("\n".join(problems))
    resolve_profile(ModelProfiles.model_validate(parameters["models"]), parameters["model"])


def _describe(group: str, params_class: type[BaseModel], error: ValidationError) -> list[str]:
    lines = []
    for details in error.errors():
        path = [str(part) for part in details["loc"]]
        if details["type"] == "extra_forbidden":
            known = params_class.model_fields if len(path) == 1 else ()
            lines.append(
                _unknown_parameter(path[-1], tuple(known), ".".join([group, *path[:-1]]) + ".")
            )
            continue
        if details["type"] == "missing":
            lines.append(f"{'.'.join([group, *path])} is missing; it has no default.")
            continue
        value = repr(details["input"])
        shown = value if len(value) <= 60 else value[:57] + "..."
        hint = _quoting_hint(details["input"]) if details["type"] in _TEXT_ERRORS else ""
        lines.append(f"{'.'.join([group, *path])} is {shown}: {details['msg']}.{hint}")
    return lines


def _quoting_hint(value: Any) -> str:
    """Return how to write a string that YAML reads as a number, a boolean or nothing."""
    if isinstance(value, str | list | tuple | dict):
        return ""
    return ' A name that looks like a number, yes, no or null is put in quotes in the file ("…").'


def _unknown_parameter(name: str, known: tuple[str, ...], prefix: str) -> str:
    if renamed := RENAMED_PARAMETERS.get(prefix + name):
        return f"The parameter {prefix}{name} is now called {renamed}. Use the new name."
    listed = f" Known: {', '.join(sorted(known))}." if known else ""
    return f"There is no parameter {prefix}{name}.{did_you_mean(name, known, prefix)}{listed}"
