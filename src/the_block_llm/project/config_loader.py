"""Configuration files that can name the chosen model and folders of the project.

Resolvers belong to the loader rather than to a hook: Kedro-Viz reads the catalog without hooks.
"""

import os
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from kedro.config import OmegaConfigLoader
from kedro.utils import find_kedro_project
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from the_block_llm.datasets.storage import StorageParams, storage_params
from the_block_llm.errors import ParameterError, did_you_mean, user_error_cause
from the_block_llm.models.profiles import profile_name
from the_block_llm.project.parameter_checks import check_parameters

_SAID_CHARACTERS: Final = 200  # of an error of omegaconf, which may quote itself many times
LOADER_ARGS: Final[dict[str, Any]] = {
    "base_env": "base",
    "default_run_env": "local",
    # conf/local replaces single values, not whole top-level keys.
    "merge_strategy": {"parameters": "soft"},
}


class ProjectConfigLoader(OmegaConfigLoader):
    """Kedro's loader with three resolvers of this project.

    ``${chosen:model}`` is the name under which the chosen profile keeps its data,
    ``${chosen:corpus}`` that of its rows (another one for a repository chosen alone),
    ``${chosen:credentials}`` the entry that ``storage`` names, ``${stored:x}`` a place in the
    folder of ``storage``, and ``${project_path:data/x}`` an absolute path, the same from
    whichever folder one starts.
    """

    def __init__(self, conf_source: str, *args: Any, **options: Any) -> None:
        beside = Path(conf_source).resolve().parent
        # With --conf-source the configuration may lie far from the project.
        is_project = (beside / "pyproject.toml").is_file()
        project = beside if is_project else find_kedro_project(Path.cwd()) or Path.cwd()

        @cache
        def storage() -> StorageParams:
            return storage_params(self["parameters"])

        @cache
        def chosen(name: str) -> str | None:
            parameters = self["parameters"]
            if name == "corpus":
                only = (parameters.get("sequence_build") or {}).get("only_repository")
                model = profile_name(str(parameters["model"]))
                return f"{model}@{only}" if only else model
            if name == "credentials":
                return storage().credentials
            value = str(parameters[name])
            return profile_name(value) if name == "model" else value

        def stored(relative: str) -> str:
            return f"{storage().folder.rstrip('/')}/{relative}"

        def project_path(relative: str) -> str:
            return str(project / relative)

        self._parameters: dict[str, Any] | None = None
        super().__init__(conf_source, *args, **options)
        if self.env:
            _require_environment(Path(conf_source), self.env)
        # Not through custom_resolvers: a second loader in one process would get the first's.
        OmegaConf.register_new_resolver("chosen", chosen, replace=True)
        OmegaConf.register_new_resolver("stored", stored, replace=True)
        OmegaConf.register_new_resolver("project_path", project_path, replace=True)

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The merged values of all files of the kind ``key``.

        Raises:
            ParameterError: One of them cannot be read; the message names file and line.
        """
        if key != "parameters" or key in self:
            return self._read(key)
        # Kedro parses and resolves every file anew each time it is asked, as for each dataset
        # whose place depends on a parameter; they do not change while the loader lives.
        if self._parameters is None:
            self._parameters = self._read(key)
        return deepcopy(self._parameters)

    def _read(self, key: str) -> dict[str, Any]:
        try:
            return super().__getitem__(key)
        except (
            yaml.YAMLError, UnicodeDecodeError, AttributeError, ValueError, OmegaConfBaseException
        ) as error:  # fmt: skip
            if user_error_cause(error):  # a resolver's
                raise
            wrong = [
                problem
                for folder in (self.base_env, self.env or self.default_run_env)
                for pattern in self.config_patterns.get(key, ())
                for path in sorted((Path(self.conf_source) / str(folder)).glob(pattern))
                if path.is_file() and (problem := _what_is_wrong(path))
            ]
            if not wrong and isinstance(error, OmegaConfBaseException):
                said = str(error).splitlines()[0][:_SAID_CHARACTERS]
                wrong = [f"A ${{…}} in {self.conf_source} leads nowhere: {said}. Correct it."]
            if not wrong:
                raise
            raise ParameterError("\n".join(dict.fromkeys(wrong))) from error


def _require_environment(conf: Path, env: str) -> None:
    known = sorted(path.name for path in conf.iterdir() if path.is_dir())
    if env not in known:
        raise ParameterError(
            f"There is no configuration environment {env} in {conf} (--env, or the variable "
            f"KEDRO_ENV).{did_you_mean(env, known)} Known: {', '.join(known)}."
        )


def _what_is_wrong(path: Path) -> str | None:
    """Why a configuration file cannot be read, with its line; none where it can."""
    try:
        found = OmegaConf.load(path)
    except UnicodeDecodeError as error:
        return f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8."
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        return f"{path}, line {line}: this is not YAML: {error.problem}. Correct that line."
    except yaml.YAMLError as error:
        return f"{path}: this is not YAML: {error}."
    if isinstance(found, DictConfig):
        return None
    return f"{path}, line 1: this is no mapping. Write each value as `name: value`."


def config_loader(
    project: str | Path = ".", env: str | None = None, params: dict[str, Any] | None = None
) -> ProjectConfigLoader:
    """The project's configuration without a Kedro session, from the environment it would take."""
    return ProjectConfigLoader(
        str(Path(project).resolve() / "conf"),
        env=env or os.environ.get("KEDRO_ENV"),
        runtime_params=params or {},
        **LOADER_ARGS,
    )


def project_parameters(
    project: str | Path = ".", env: str | None = None, params: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The checked parameters of the project in the folder ``project``, without a Kedro session.

    Args:
        project: Its folder.
        env: Configuration environment; by default ``KEDRO_ENV``, or ``local``.
        params: Values that replace those of the files, as ``--params`` does.

    Raises:
        ParameterError: A parameter is wrong.
    """
    loader = config_loader(project, env, params)
    parameters = dict(loader["parameters"])
    check_parameters(parameters)
    return parameters
