"""Kedro configuration loader with resolvers for the chosen model and the project's folders.

The resolvers are registered here and not in a hook, since Kedro-Viz reads the catalog without
hooks.
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

_MAX_ERROR_CHARACTERS: Final = 200  # OmegaConf errors may repeat their text many times
LOADER_ARGS: Final[dict[str, Any]] = {
    "base_env": "base",
    "default_run_env": "local",
    # conf/local overrides single values, not complete top-level keys.
    "merge_strategy": {"parameters": "soft"},
}


class ProjectConfigLoader(OmegaConfigLoader):
    """Kedro's loader with three additional resolvers.

    - ``${chosen:model}``: name of the chosen profile in file paths. ``${chosen:corpus}``: name of
      its rows, which differs if ``sequence_build.only_repository`` is set.
      ``${chosen:credentials}``: the credentials entry of ``storage``.
    - ``${stored:x}``: path or URL of ``x`` in the folder of ``storage``.
    - ``${project_path:data/x}``: absolute path of a file in the project, independent of the
      working directory.
    """

    def __init__(self, conf_source: str, *args: Any, **options: Any) -> None:
        parent = Path(conf_source).resolve().parent
        # With --conf-source the configuration may be outside of the project.
        is_project = (parent / "pyproject.toml").is_file()
        project = parent if is_project else find_kedro_project(Path.cwd()) or Path.cwd()

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
        # Not as custom_resolvers: a second loader in the process would use those of the first.
        OmegaConf.register_new_resolver("chosen", chosen, replace=True)
        OmegaConf.register_new_resolver("stored", stored, replace=True)
        OmegaConf.register_new_resolver("project_path", project_path, replace=True)

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Return the merged values of all files for ``key``.

        Raises:
            ParameterError: A file cannot be read; the message names file and line.
        """
        if key != "parameters" or key in self:
            return self._read(key)
        # Kedro parses and resolves all files again on each access, such as for each dataset whose
        # path depends on a parameter. The files do not change during the loader's lifetime.
        if self._parameters is None:
            self._parameters = self._read(key)
        return deepcopy(self._parameters)

    def _read(self, key: str) -> dict[str, Any]:
        try:
            return super().__getitem__(key)
        except (
            yaml.YAMLError, UnicodeDecodeError, AttributeError, ValueError, OmegaConfBaseException
        ) as error:  # fmt: skip
            if user_error_cause(error):  # raised by a resolver
                raise
            problems = [
                problem
                for folder in (self.base_env, self.env or self.default_run_env)
                for pattern in self.config_patterns.get(key, ())
                for path in sorted((Path(self.conf_source) / str(folder)).glob(pattern))
                if path.is_file() and (problem := _file_problem(path))
            ]
            if not problems and isinstance(error, OmegaConfBaseException):
                message = str(error).splitlines()[0][:_MAX_ERROR_CHARACTERS]
                problems = [
                    f"A ${{…}} in {self.conf_source} cannot be resolved: {message}. Correct it."
                ]
            if not problems:
                raise
            raise ParameterError("\n".join(dict.fromkeys(problems))) from error


def _require_environment(conf: Path, env: str) -> None:
    known = sorted(path.name for path in conf.iterdir() if path.is_dir())
    if env not in known:
        raise ParameterError(
            f"There is no configuration environment {env} in {conf} (--env, or the variable "
            f"KEDRO_ENV).{did_you_mean(env, known)} Known: {', '.join(known)}."
        )


def _file_problem(path: Path) -> str | None:
    """Return why a configuration file cannot be read, with its line; None if it can."""
    try:
        content = OmegaConf.load(path)
    except UnicodeDecodeError as error:
        return f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8."
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        return f"{path}, line {line}: invalid YAML: {error.problem}. Correct that line."
    except yaml.YAMLError as error:
        return f"{path}: invalid YAML: {error}."
    if isinstance(content, DictConfig):
        return None
    return f"{path}, line 1: not a mapping. Write each value as `name: value`."


def config_loader(
    project: str | Path = ".", env: str | None = None, params: dict[str, Any] | None = None
) -> ProjectConfigLoader:
    """Return the configuration loader of a project without a Kedro session.

    Args:
        project: Folder of the project.
        env: Configuration environment; by default ``KEDRO_ENV``, or ``local``.
        params: Values that override those of the files, as ``--params`` does.
    """
    return ProjectConfigLoader(
        str(Path(project).resolve() / "conf"),
        env=env or os.environ.get("KEDRO_ENV"),
        runtime_params=params or {},
        **LOADER_ARGS,
    )


def project_parameters(
    project: str | Path = ".", env: str | None = None, params: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the checked parameters of a project without a Kedro session.

    Args:
        project: Folder of the project.
        env: Configuration environment; by default ``KEDRO_ENV``, or ``local``.
        params: Values that override those of the files, as ``--params`` does.

    Raises:
        ParameterError: A parameter is wrong.
    """
    loader = config_loader(project, env, params)
    parameters = dict(loader["parameters"])
    check_parameters(parameters)
    return parameters
