"""A small Ray cluster on loopback, for all tests in this folder."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Start two nodes with one core each on this machine, as Ray's own tests do."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Makes Ray listen on loopback on Linux as well; read when ray is imported.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    from ray.cluster_utils import Cluster

    # Workers import the package and the jobs of the tests from here.
    root = Path(__file__).resolve().parents[2]
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root / "src"), str(root)])
    node = {
        "num_cpus": 1,
        "object_store_memory": 100 * MEBIBYTE,
        "include_dashboard": False,
        # A node is dead after two seconds without a heartbeat; Ray's default is longer.
        "_system_config": {"health_check_period_ms": 1000, "health_check_failure_threshold": 2},
    }
    ray_cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        ray_cluster.add_node(num_cpus=1, object_store_memory=100 * MEBIBYTE)
        ray.init(address=ray_cluster.address, log_to_driver=False, configure_logging=False)
        yield ray_cluster
    finally:
        ray.shutdown()
        ray_cluster.shutdown()
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path
