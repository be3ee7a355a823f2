"""Copies of this project, so that test runs do not write to the checkout."""

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
    """Copy configuration and project file; the source is the installed package."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "conf", folder / "conf", ignore=shutil.ignore_patterns("local"))
    (folder / "conf" / "local").mkdir()
    (folder / "src").mkdir()
    (folder / "data").mkdir()
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def build_finished_project(folder: Path, repository: Path) -> Path:
    """Create a project and run it once on ``repository`` with a tiny model.

    Its configuration contains both, so that commands need only ``KEDRO_ENV=test``. The path of the
    repository is relative to the project.
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
    """Run a pipeline in this process, as ``kedro run --env ENV --params=…`` does."""
    bootstrap_project(folder)
    with KedroSession.create(folder, env=env, runtime_params=parameters) as session:
        return session.run(pipeline_names=[pipeline])
