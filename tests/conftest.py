import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rich

# Before anything imports them: no test asks a hub, a telemetry service or a font server.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["MPLBACKEND"] = "agg"
# Tiny models gain nothing from threads, and two test processes on two cores would fight.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
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
    """Slow tests first, so that none is left alone at the end while the other process waits."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
