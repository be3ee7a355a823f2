"""Which repositories are forks of one another, and which hold copies of another's files.

Three measures, because none sees all: commits that two share (a fork by git), the likeness of
their lines by MinHash (a fork without its history, or one that went its own way), and files that
are the same to the letter (a library that was copied in). Nothing is taken out here: what several
say is learned once anyway; this tells whose words are heard.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from rensa import RMinHash, RMinHashLSH

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.datasets.repository_rows import RepositoryRowIndex, RepositoryRows
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.pipelines.git_ingest.sharding.fan_out import Failed, one_by_one

_PERMUTATIONS: Final = 128  # the estimate is within 0.05 of the truth, two times in three
_BANDS: Final = 32  # candidates from a likeness of about 0.4; the estimate then decides
_FORK_LIKENESS: Final = 0.6
_FORK_COMMITS: Final = 0.5  # of the smaller history
_FEWEST_FILES: Final = 5
_TELLING_BYTES: Final = 200  # shorter files, such as empty packages, are alike by chance
_TELLING_CHARACTERS: Final = 12  # the same of lines
_EVERY_PAIR: Final = 8  # holders of one hash; of more, only those with the first are counted

Hashes = npt.NDArray[np.uint64]
Pairs = Counter[tuple[int, int]]


@dataclass(frozen=True)
class _Sketch:
    """What is compared of a repository."""

    commits: Hashes
    files: Hashes
    lines: RMinHash | None
    """None where it has no line to compare."""


def overlaps(
    repository: Mapping[str, Any],
    commits: ParquetTable,
    snapshot_files: ParquetTable,
    n_workers: int,
    execution: ExecutionParams,
) -> list[dict[str, Any]]:
    """Compare all repositories, each as it stands at its ref.

    Returns:
        One entry a pair: ``repository`` is a ``fork`` of another, or holds ``copied_files`` of
        it; the most alike first.
    """
    every = repository["repositories"]
    if len(every) < 2:
        return []
    of_commits, of_files = RepositoryRowIndex(commits), RepositoryRowIndex(snapshot_files)
    jobs = [
        (
            _sketch,
            (facts["head"], of_commits.rows_of(facts["name"]), of_files.rows_of(facts["name"])),
        )
        for facts in every
    ]
    names: list[str] = []
    files: list[RepositoryRows] = []
    sketches: list[_Sketch] = []
    results = one_by_one(
        jobs,
        n_workers,
        execution,
        "Comparing repositories",
        [facts["n_commits"] for facts in every],
    )
    for facts, result in zip(every, results, strict=True):
        # One that could not be read has no rows, and one that cannot be compared no sketch.
        if not isinstance(result, Failed) and len(result.commits):
            names.append(facts["name"])
            files.append(of_files.rows_of(facts["name"]))
            sketches.append(result)
    heads = {facts["name"]: facts["head"] for facts in every}
    shared_commits = shared_pairs([one.commits for one in sketches])
    shared_files = shared_pairs([one.files for one in sketches])
    alike = _alike([one.lines for one in sketches])
    found = []
    for pair in sorted({*shared_commits, *shared_files, *alike}):
        first, second = pair
        n_commits, n_files = shared_commits[pair], shared_files[pair]
        smaller = min(len(sketches[one].commits) for one in pair)
        likeness = alike.get(pair, 0.0)
        is_fork = n_commits >= _FORK_COMMITS * smaller or likeness >= _FORK_LIKENESS
        if not is_fork and n_files < _FEWEST_FILES:
            continue
        # A copied library is most of where it comes from and little of where it went.
        share = [n_files / max(1, len(sketches[one].files)) for one in pair]
        host, origin = (second, first) if share[0] >= share[1] else (first, second)
        entry = {
            "repository": names[host],
            "of": names[origin],
            "kind": "fork" if is_fork else "copied_files",
            "shared_commits": n_commits,
            "shared_files": n_files,
            "likeness": round(likeness, 2),
        }
        if not is_fork:
            entry["folder"] = _folder(files[host], heads[names[host]], sketches[origin].files)
        found.append(entry)
    return sorted(found, key=lambda entry: (-entry["likeness"], -entry["shared_files"]))


def describe_overlap(entry: Mapping[str, Any]) -> str:
    """Say what was found in a sentence.

    >>> describe_overlap({"repository": "b", "of": "a", "kind": "fork", "shared_commits": 7,
    ...                   "shared_files": 3, "likeness": 0.9})
    'b is a near duplicate of a: 7 commits and 3 files are the same, likeness 0.90.'
    """
    if entry["kind"] == "fork":
        return (
            f"{entry['repository']} is a near duplicate of {entry['of']}: "
            f"{entry['shared_commits']:,} commits and {entry['shared_files']:,} files are the "
            f"same, likeness {entry['likeness']:.2f}."
        )
    return (
        f"{entry['repository']} holds {entry['shared_files']:,} files of {entry['of']}, most of "
        f"them under {entry['folder']}."
    )


def shared_pairs(hashes: Sequence[Hashes]) -> Pairs:
    """By pair of holders, in how many hashes they agree.

    >>> shared_pairs([np.array([1, 2, 3], np.uint64), np.array([3, 1], np.uint64)])
    Counter({(0, 1): 2})
    """
    pairs: Pairs = Counter()
    if not hashes:
        return pairs
    values = np.concatenate(hashes)
    holders = np.repeat(np.arange(len(hashes), dtype=np.int32), [len(one) for one in hashes])
    order = np.argsort(values, kind="stable")
    values, holders = values[order], holders[order]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    lengths = np.diff(np.concatenate([starts, [len(values)]]))
    for start, length in zip(starts[lengths > 1], lengths[lengths > 1], strict=True):
        group = sorted(set(holders[start : start + length].tolist()))
        if len(group) <= _EVERY_PAIR:
            pairs.update(combinations(group, 2))
        else:
            pairs.update((group[0], other) for other in group[1:])
    return pairs


def _alike(lines: Sequence[RMinHash | None]) -> dict[tuple[int, int], float]:
    index = RMinHashLSH(threshold=_FORK_LIKENESS, num_perm=_PERMUTATIONS, num_bands=_BANDS)
    found: dict[tuple[int, int], float] = {}
    for number, minhash in enumerate(lines):
        if minhash is None:
            continue
        for other in index.query(minhash):
            found[other, number] = lines[other].jaccard(minhash)
        index.insert(number, minhash)
    return found


def _sketch(head: str, commits: RepositoryRows, files: RepositoryRows) -> _Sketch:
    shas = [int(row["sha"][:16], 16) for row in commits.rows(["sha"])]
    hashes: set[int] = set()
    minhash = RMinHash(num_perm=_PERMUTATIONS, seed=1)
    has_lines = False
    for _, text in _texts(files, head):
        if len(text) >= _TELLING_BYTES:
            hashes.add(_hash(text))
        telling = [
            bare for line in text.splitlines() if len(bare := line.strip()) >= _TELLING_CHARACTERS
        ]
        if telling:
            minhash.update(telling)
            has_lines = True
    return _Sketch(
        np.array(shas, np.uint64),
        np.array(sorted(hashes), np.uint64),
        minhash if has_lines else None,
    )


def _texts(files: RepositoryRows, head: str) -> Iterator[tuple[str, str]]:
    for row in files.rows(["sha", "path", "text"]):
        if row["sha"] == head and row["text"]:
            yield row["path"], row["text"]


def _folder(files: RepositoryRows, head: str, copied: Hashes) -> str:
    """The folder below which most copies lie, as deep as half of them agree."""
    known = set(copied.tolist())
    paths = [
        PurePosixPath(path)
        for path, text in _texts(files, head)
        if len(text) >= _TELLING_BYTES and _hash(text) in known
    ]
    folders = Counter(
        str(parent) for path in paths for parent in path.parents if str(parent) != "."
    )
    wanted = len(paths) / 2
    deep = [folder for folder, n in folders.items() if n > wanted]
    return max(deep, key=lambda folder: folder.count("/"), default=".")


def _hash(text: str) -> int:
    # White space aside: copies are indented anew, and line ends differ.
    return int.from_bytes(blake2b(" ".join(text.split()).encode(), digest_size=8).digest(), "big")
