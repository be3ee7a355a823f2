"""Lists the commits of a repository with ``git rev-list``, ordered by commit time."""

import datetime as dt
import tempfile
import time
from array import array

import numpy as np

from the_block_llm.errors import RepositoryError
from the_block_llm.pipelines.git_ingest.git.refs import history_error
from the_block_llm.pipelines.git_ingest.git.sandbox import GitProcessError, RepositorySandbox
from the_block_llm.pipelines.git_ingest.sharding.commit_order import CommitOrder
from the_block_llm.pipelines.git_ingest.sharding.commit_times import (
    MAX_TIME_S,
    consistent_times,
    separate_ties,
)


def list_commits(
    sandbox: RepositorySandbox, head: str, *, all_branches: bool, since: dt.datetime | None
) -> CommitOrder:
    """List the commits reachable from ``head``, oldest first and parents before children.

    Times that contradict the history are corrected, see
    :func:`~the_block_llm.pipelines.git_ingest.sharding.commit_times.consistent_times`.

    Args:
        sandbox: The repository.
        head: Sha of the commit to start from.
        all_branches: Also list commits reachable from every local and remote branch.
        since: Leave out commits made before this time.

    Raises:
        RepositoryError: A commit object is missing or damaged, or ``since`` leaves no commit.
    """
    packed, offsets, times = bytearray(), array("Q", [0]), array("q")
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
                packed += bytes.fromhex(shas.decode("ascii"))
                offsets.append(len(packed))
                # git prints a negative time as one without a sign.
                seconds = int(timestamp)
                times.append(min(seconds, MAX_TIME_S) if seconds < 1 << 63 else 0)
    except GitProcessError as error:
        raise history_error(sandbox, head) from error
    if not times:
        raise history_error(sandbox, head)
    sha_bytes = len(head) // 2
    consistent = consistent_times(packed, offsets, times, sha_bytes, head, int(time.time()))
    indices = np.argsort(consistent, kind="stable")
    ascending = separate_ties(consistent[indices])
    if since is not None:
        first = int(np.searchsorted(ascending, int(since.timestamp())))
        indices, ascending = indices[first:], ascending[first:]
        if not len(indices):
            raise RepositoryError(
                f"No commit is left after git_ingest.since={since}. Set an earlier date, or null."
            )
    sorted_packed, sorted_offsets = bytearray(), array("Q", [0])
    for index in indices:
        sorted_packed += packed[offsets[index] : offsets[index + 1]]
        sorted_offsets.append(len(sorted_packed))
    return CommitOrder(
        sorted_packed, sorted_offsets, array("q", ascending.astype(np.int64).tobytes()), sha_bytes
    )
