"""Kedro configuration loader with resolvers for the chosen model and the project's folders.

The resolvers are registered here and not in a hook, since Kedro-Viz reads the catalog without
hooks.
"""

import io
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
        self._archive_root: str | None = None
        super().__init__(conf_source, *args, **options)
        self._check_environments()
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

    def _get_conf_env_path(self, env: str) -> str:
        """Return the folder of an environment; in an archive, whatever folder it was made from.

        Kedro takes the archive's last entry for the configuration.
        """
        if self._protocol not in {"tar", "zip"}:
            return super()._get_conf_env_path(env)
        if self._archive_root is None:
            roots = [str(name) for name in self._fs.ls("", detail=False)]
            found = [root for root in roots if self._fs.isdir(f"{root}/{self.base_env}")]
            self._archive_root = found[0] if found else ""
        return (Path(self._archive_root) / env).as_posix()

    def _check_environments(self) -> None:
        """Check that the folders of the base and the chosen environment exist.

        Without ``--env`` the folder of the default environment is optional: `kedro package` leaves
        its files out, and git keeps no empty folder.
        """
        if not self._fs.isdir(self._get_conf_env_path(self.base_env)):
            raise ParameterError(
                f"{self.conf_source} contains no configuration: there is no folder "
                f"{self.base_env} in it. Give the folder conf of a project, or an archive of it "
                "(tar czf conf.tar.gz conf)."
            )
        if self._fs.isdir(self._get_conf_env_path(self.env or self.default_run_env)):
            return
        if self.env and self.env != self.default_run_env:
            entries = self._fs.ls(self._get_conf_env_path(""), detail=True)
            known = sorted(Path(e["name"]).name for e in entries if e["type"] == "directory")
            raise ParameterError(
                f"There is no configuration environment {self.env} in {self.conf_source} (--env, "
                f"or the variable KEDRO_ENV).{did_you_mean(self.env, known)} Known: "
                f"{', '.join(known)}."
            )
        self.env = self.default_run_env = self.base_env

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
                for path in sorted(
                    self._fs.glob(f"{self._get_conf_env_path(str(folder))}/{pattern}")
                )
                if self._fs.isfile(path)
                and (problem := _file_problem(path, self._fs.cat_file(path)))
            ]
            if not problems and isinstance(error, OmegaConfBaseException):
                message = str(error).splitlines()[0][:_MAX_ERROR_CHARACTERS]
                problems = [
                    f"A ${{…}} in {self.conf_source} cannot be resolved: {message}. Correct it."
                ]
            if not problems:
                raise
            raise ParameterError("\n".join(dict.fromkeys(problems))) from error


def _file_problem(path: str, content: bytes) -> str | None:
    """Return why a configuration file cannot be read, with its line; None if it can."""
    try:
        values = OmegaConf.load(io.StringIO(content.decode("utf-8")))
    except UnicodeDecodeError as error:
        return f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8."
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        return (
            f"{path}, line {line}: invalid YAML: {error.problem}. Correct that line; a value with "
            "special characters is put in quotes."
        )
    except yaml.YAMLError as error:
        return f"{path}: invalid YAML: {error}."
    if isinstance(values, DictConfig):
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
