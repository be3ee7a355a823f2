"""This project in a folder of its own, so that a test's run leaves no trace in the checkout."""

import os
import shutil
from pathlib import Path
from typing import Any

import yaml
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from tests.builders.tiny_llama import save_tiny_llama

ROOT = Path(__file__).resolve().parents[2]


def copy_project(folder: Path) -> Path:
    """Copy configuration and project file; the installed package serves as the source."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "conf", folder / "conf", ignore=shutil.ignore_patterns("local"))
    (folder / "conf" / "local").mkdir()
    (folder / "src").mkdir()
    (folder / "data").mkdir()
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def build_finished_project(folder: Path, repository: Path) -> Path:
    """A project that has run once on ``repository`` with a tiny model.

    Its configuration names both, so that ``KEDRO_ENV=test`` is all that a command needs; the
    repository by a path that starts at the project, as from any folder it must.
    """
    copy_project(folder)
    settings = folder / "conf/test/parameters.yml"
    values = yaml.safe_load(settings.read_text(encoding="utf-8"))
    values["repository"] = os.path.relpath(repository, folder)
    values["models"]["tiny"]["folder"] = str(save_tiny_llama(folder / "tiny"))
    settings.write_text(yaml.safe_dump(values), encoding="utf-8")
    run_project(folder)
    return folder


def run_project(
    folder: Path, pipeline: str = "__default__", env: str = "test", **parameters: Any
) -> dict[str, Any]:
    """Run a pipeline as ``kedro run --env ENV --params=…`` does, in this process."""
    bootstrap_project(folder)
    with KedroSession.create(folder, env=env, runtime_params=parameters) as session:
        return session.run(pipeline_names=[pipeline])
