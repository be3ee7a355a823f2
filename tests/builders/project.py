"""This project in a folder of its own, so that a test's run leaves no trace in the checkout."""

import shutil
from pathlib import Path
from typing import Any

from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

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


def run_project(
    folder: Path, pipeline: str = "__default__", env: str = "test", **parameters: Any
) -> dict[str, Any]:
    """Run a pipeline as ``kedro run --env ENV --params=…`` does, in this process."""
    bootstrap_project(folder)
    with KedroSession.create(folder, env=env, runtime_params=parameters) as session:
        return session.run(pipeline_names=[pipeline])
