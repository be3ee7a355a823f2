"""Lists the commits of a repository with ``git rev-list``, ordered by commit time."""

import datetime as dt
import tempfile
from array import array
from typing import Final

import numpy as np

from the_block_llm.errors import RepositoryError
from the_block_llm.pipelines.git_ingest.git.refs import history_error
from the_block_llm.pipelines.git_ingest.git.sandbox import GitProcessError, RepositorySandbox
from the_block_llm.pipelines.git_ingest.sharding.commit_order import CommitOrder

MAX_TIME_S: Final = 253_402_300_799
"""The last second of the year 9999; later commit times are damage."""


def list_commits(
    sandbox: RepositorySandbox, head: str, *, all_branches: bool, since: dt.datetime | None
) -> CommitOrder:
    """List the commits reachable from ``head``, oldest first.

    Args:
        sandbox: The repository.
        head: Sha of the commit to start from.
        all_branches: Also list commits reachable from every local and remote branch.
        since: Leave out commits made before this time.

    Raises:
        RepositoryError: A commit object is missing or damaged, or ``since`` leaves no commit.
    """
    packed, offsets, times = bytearray(), array("Q", [0]), array("q")
    min_time = int(since.timestamp()) if since else None
    tips = f"{head}\n".encode()
    if all_branches:
        # By sha: rev-list would fail on a ref whose name or commit is broken.
        tips += sandbox.check_output(
            "for-each-ref", "--format=%(objectname)", "refs/heads", "refs/remotes"
        )
    try:
        with tempfile.TemporaryFile() as file:
            file.write(tips)
            file.seek(0)
            for line in sandbox.iter_records(
                "rev-list", "--topo-order", "--reverse", "--parents", "--timestamp",
                "--ignore-missing", "--stdin", stdin=file,
            ):  # fmt: skip
                timestamp, shas = line.split(b" ", 1)
                time = min(max(int(timestamp), 0), MAX_TIME_S)
                if min_time is None or time >= min_time:
                    packed += bytes.fromhex(shas.decode("ascii"))
                    offsets.append(len(packed))
                    times.append(time)
    except GitProcessError as error:
        raise history_error(sandbox, head) from error
    if not times:
        raise RepositoryError(
            f"No commit is left after git_ingest.since={since}. Set an earlier date, or null."
        )
    return _sort_by_time(CommitOrder(packed, offsets, times, len(head) // 2))


def _sort_by_time(order: CommitOrder) -> CommitOrder:
    times = np.frombuffer(order.times, np.int64)
    packed, offsets = bytearray(), array("Q", [0])
    indices = np.argsort(times, kind="stable")
    for index in indices:
        packed += order.packed[order.offsets[index] : order.offsets[index + 1]]
        offsets.append(len(packed))
    return CommitOrder(packed, offsets, array("q", times[indices].tobytes()), order.sha_bytes)
