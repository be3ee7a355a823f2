"""One small Ray cluster for all tests of this folder, on loopback."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Two nodes on this machine, a core each, as Ray's own tests make them."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # It then listens on loopback, on Linux as well; read when ray is imported.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    from ray.cluster_utils import Cluster

    # Its workers import the package and the tests' jobs from here.
    root = Path(__file__).resolve().parents[2]
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root / "src"), str(root)])
    node = {
        "num_cpus": 1,
        "object_store_memory": 100 * MEBIBYTE,
        "include_dashboard": False,
        # A node is given up after two seconds of silence; by default Ray waits for longer.
        "_system_config": {"health_check_period_ms": 1000, "health_check_failure_threshold": 2},
    }
    made = Cluster(initialize_head=True, head_node_args=node)
    try:
        made.add_node(num_cpus=1, object_store_memory=100 * MEBIBYTE)
        ray.init(address=made.address, log_to_driver=False, configure_logging=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path
