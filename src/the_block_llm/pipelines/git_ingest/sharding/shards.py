"""Large repositories divided into shares, so that no worker is left with one alone.

A share of a repository only leaves finished pieces in its cache. The job that reads the whole
repository then finds them there, so what comes out is the same for any number of shares,
workers and nodes; a share that is lost with its node costs time and nothing else.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from the_block_llm.execution.jobs import Call
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.pipelines.git_ingest.sharding.fan_out import Failed, one_by_one

_T = TypeVar("_T")
Facts = Mapping[str, Any]
COMMITS_A_SHARE: Final = 1024  # some seconds of work; opening the repository costs a fraction
_MOST_SHARES: Final = 64  # each lists all commits first: more would cost more than they save


class Share(NamedTuple):
    """One of ``of`` parts of a repository's pieces."""

    number: int
    of: int

    def pick(self, pieces: Sequence[_T]) -> Sequence[_T]:
        """The pieces of this share: a run of them, since git reads neighbours faster.

        >>> Share(1, 2).pick("abcde")
        'cde'
        """
        n_pieces = len(pieces)
        begin, end = (n_pieces * at // self.of for at in (self.number, self.number + 1))
        return pieces[begin:end]


def in_shares(
    every: Sequence[Facts],
    whole: Callable[[Facts], Call],
    share: Callable[[Facts, Share], Call],
    n_workers: int,
    execution: ExecutionParams,
    description: str,
) -> Iterator[Any | Failed]:
    """Read every repository, the large ones in shares first.

    Args:
        every: Facts of the repositories.
        whole: The job that reads a repository and gives what it holds.
        share: The job that reads a share of one.
        n_workers: Processes of the local engine.
        execution: Which engine.
        description: Of the progress bar.

    Returns:
        For each repository what ``whole`` gave, or why it failed; in order.
    """
    n_shares = [min(_MOST_SHARES, facts["n_commits"] // COMMITS_A_SHARE) for facts in every]
    divided = [
        (index, Share(number, n))
        for index, n in enumerate(n_shares)
        if n > 1
        for number in range(n)
    ]
    # Largest first: what is begun last should be short.
    falling = sorted(range(len(every)), key=lambda index: -every[index]["n_commits"])
    large = [index for index in falling if n_shares[index] > 1]
    small = falling[len(large) :]
    # Both times some small ones come last, so that nobody waits long for the others' ends.
    n_first = len(small) // 2 if large else len(small)

    def run(jobs: list[Call], weights: list[int], wholes: list[int]) -> list[Any]:
        return list(
            one_by_one(
                [*jobs, *(whole(every[index]) for index in wholes)],
                n_workers,
                execution,
                description,
                [*weights, *(every[index]["n_commits"] for index in wholes)],
            )
        )

    first = run(
        [share(every[index], one) for index, one in divided],
        [every[index]["n_commits"] // one.of for index, one in divided],
        small[:n_first],
    )
    # A share that failed is not asked why: reading the whole meets the same, and says it.
    rest = run([], [], [*large, *small[n_first:]])
    found = dict(
        zip(
            [*small[:n_first], *large, *small[n_first:]],
            [*first[len(divided) :], *rest],
            strict=True,
        )
    )
    return (found[index] for index in range(len(every)))
