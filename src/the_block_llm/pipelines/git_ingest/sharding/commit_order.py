"""The order of all commits, and its division into shards.

Commits are ordered by commit time; those of one second keep git's topological order, parents
first. Times that contradict the history are corrected (commit_times). Shards end at commits
chosen by their own sha, so a commit added anywhere changes its own shard and hardly any other.
"""

import hashlib
import itertools
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

# Mean commits per shard, by the index of the commit from which it applies. A short history gets
# enough shards for every core, and a long one not so many files that opening them takes the time.
# The start of a history is always divided the same way, so its shards stay valid as it grows.
_MEAN_SHARD_COMMITS: Final = {0: 64, 512: 256, 2048: 512, 16384: 1024}
_MAX_TO_MEAN_RATIO: Final = 2


@dataclass(frozen=True)
class CommitOrder:
    """Commits to read, oldest first, in some 60 bytes each."""

    packed: bytes | bytearray
    """For each commit its binary sha and those of its parents."""
    offsets: "array[int]"
    """Start of each commit in ``packed``, and the end of the last one; ``n_commits + 1``."""
    times: "array[int]"
    """Commit times in seconds since 1970, ascending; none is before that of a parent."""
    sha_bytes: int
    """Length of a sha: 20, or 32 with SHA-256."""

    def __len__(self) -> int:
        return len(self.times)

    def sha(self, index: int) -> str:
        start = self.offsets[index]
        return self.packed[start : start + self.sha_bytes].hex()

    def shards(self) -> Iterator["HistoryShard"]:
        """Yield consecutive runs of commits."""
        begin = mean = 0
        for index, offset in enumerate(self.offsets[:-1]):
            mean = _MEAN_SHARD_COMMITS.get(index, mean)
            is_boundary = int.from_bytes(self.packed[offset : offset + 4], "big") % mean == 0
            if is_boundary or index - begin + 1 >= _MAX_TO_MEAN_RATIO * mean:
                yield HistoryShard(self, begin, index + 1)
                begin = index + 1
        if begin < len(self):
            yield HistoryShard(self, begin, len(self))


@dataclass(frozen=True)
class HistoryShard:
    """A run of commits that is read, written and cached as one."""

    order: CommitOrder
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin

    @property
    def shas(self) -> list[str]:
        return [self.order.sha(index) for index in range(self.begin, self.end)]

    @property
    def digest(self) -> str:
        """Digest of shas, parents and times.

        Deepening a shallow clone changes parents; new commits can change corrected times.
        """
        offsets = self.order.offsets[self.begin : self.end + 1]
        lengths = array("Q", (end - start for start, end in itertools.pairwise(offsets)))
        digest = hashlib.sha256(lengths.tobytes())
        digest.update(memoryview(self.order.packed)[offsets[0] : offsets[-1]])
        digest.update(self.order.times[self.begin : self.end].tobytes())
        return digest.hexdigest()[:24]
