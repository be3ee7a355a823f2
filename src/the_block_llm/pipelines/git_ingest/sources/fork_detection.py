"""Detects forks among the repositories, and files copied from one to another.

Three measures complement each other: shared commits (a fork made with git), similarity of lines
by MinHash (a fork without its history, or one that has diverged), and identical files (a vendored
library). Nothing is removed here: later stages deduplicate the text; this only reports it.
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
from the_block_llm.pipelines.git_ingest.sharding.fan_out import Failure, fan_out

_PERMUTATIONS: Final = 128  # the estimate is within 0.05 of the Jaccard index two times in three
_BANDS: Final = 32  # candidates from a similarity of about 0.4; the estimate then decides
_MIN_FORK_SIMILARITY: Final = 0.6
_MIN_SHARED_COMMIT_FRACTION: Final = 0.5  # fraction of the smaller history
_MIN_COPIED_FILES: Final = 5
_MIN_FILE_CHARACTERS: Final = 200  # shorter files, such as empty packages, match by chance
_MIN_LINE_CHARACTERS: Final = 12  # likewise for lines
_MAX_PAIRED_HOLDERS: Final = 8  # of more holders of a hash, only pairs with the first are counted

Hashes = npt.NDArray[np.uint64]
Pairs = Counter[tuple[int, int]]


@dataclass(frozen=True)
class _Sketch:
    """Hashes of a repository's commits, files and lines."""

    commits: Hashes
    files: Hashes
    lines: RMinHash | None
    """None if no line is long enough."""


def find_overlaps(
    repository: Mapping[str, Any],
    commits: ParquetTable,
    snapshot_files: ParquetTable,
    n_workers: int,
    execution: ExecutionParams,
) -> list[dict[str, Any]]:
    """Compare all repositories at their refs.

    Returns:
        One entry per pair: ``repository`` is a ``fork`` of another, or holds ``copied_files`` of
        it; the most similar first.
    """
    repositories = repository["repositories"]
    if len(repositories) < 2:
        return []
    commit_index, file_index = RepositoryRowIndex(commits), RepositoryRowIndex(snapshot_files)
    jobs = [
        (
            _sketch,
            (info["head"], commit_index.rows_of(info["name"]), file_index.rows_of(info["name"])),
        )
        for info in repositories
    ]
    names: list[str] = []
    files: list[RepositoryRows] = []
    sketches: list[_Sketch] = []
    results = fan_out(
        jobs,
        n_workers,
        execution,
        "Comparing repositories",
        [info["n_commits"] for info in repositories],
    )
    for info, result in zip(repositories, results, strict=True):
        # A repository that could not be read has no rows.
        if not isinstance(result, Failure) and len(result.commits):
            names.append(info["name"])
            files.append(file_index.rows_of(info["name"]))
            sketches.append(result)
    heads = {info["name"]: info["head"] for info in repositories}
    shared_commits = count_shared([sketch.commits for sketch in sketches])
    shared_files = count_shared([sketch.files for sketch in sketches])
    similarities = _line_similarities([sketch.lines for sketch in sketches])
    overlaps = []
    for pair in sorted({*shared_commits, *shared_files, *similarities}):
        first, second = pair
        n_commits, n_files = shared_commits[pair], shared_files[pair]
        smaller = min(len(sketches[index].commits) for index in pair)
        similarity = similarities.get(pair, 0.0)
        is_fork = (
            n_commits >= _MIN_SHARED_COMMIT_FRACTION * smaller or similarity >= _MIN_FORK_SIMILARITY
        )
        if not is_fork and n_files < _MIN_COPIED_FILES:
            continue
        # A copied library is a large fraction of its origin and a small one of its host.
        fractions = [n_files / max(1, len(sketches[index].files)) for index in pair]
        host, origin = (second, first) if fractions[0] >= fractions[1] else (first, second)
        entry = {
            "repository": names[host],
            "of": names[origin],
            "kind": "fork" if is_fork else "copied_files",
            "shared_commits": n_commits,
            "shared_files": n_files,
            "likeness": round(similarity, 2),
        }
        if not is_fork:
            entry["folder"] = _common_folder(
                files[host], heads[names[host]], sketches[origin].files
            )
        overlaps.append(entry)
    return sorted(overlaps, key=lambda entry: (-entry["likeness"], -entry["shared_files"]))


def describe_overlap(entry: Mapping[str, Any]) -> str:
    """Return a sentence about an entry of :func:`find_overlaps`.

    >>> describe_overlap({"repository": "b", "of": "a", "kind": "fork", "shared_commits": 7,
    ...                   "shared_files": 3, "likeness": 0.9})
    'b is a near duplicate of a: 7 commits and 3 files are identical, similarity 0.90.'
    """
    if entry["kind"] == "fork":
        return (
            f"{entry['repository']} is a near duplicate of {entry['of']}: "
            f"{entry['shared_commits']:,} commits and {entry['shared_files']:,} files are "
            f"identical, similarity {entry['likeness']:.2f}."
        )
    return (
        f"{entry['repository']} holds {entry['shared_files']:,} files of {entry['of']}, most of "
        f"them under {entry['folder']}."
    )


def count_shared(hashes: Sequence[Hashes]) -> Pairs:
    """Return the number of hashes that each pair of holders shares.

    >>> count_shared([np.array([1, 2, 3], np.uint64), np.array([3, 1], np.uint64)])
    Counter({(0, 1): 2})
    """
    pairs: Pairs = Counter()
    if not hashes:
        return pairs
    values = np.concatenate(hashes)
    lengths = [len(array) for array in hashes]
    holders = np.repeat(np.arange(len(hashes), dtype=np.int32), lengths)
    order = np.argsort(values, kind="stable")
    values, holders = values[order], holders[order]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    counts = np.diff(np.concatenate([starts, [len(values)]]))
    for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True):
        group = sorted(set(holders[start : start + count].tolist()))
        if len(group) <= _MAX_PAIRED_HOLDERS:
            pairs.update(combinations(group, 2))
        else:
            pairs.update((group[0], other) for other in group[1:])
    return pairs


def _line_similarities(lines: Sequence[RMinHash | None]) -> dict[tuple[int, int], float]:
    lsh = RMinHashLSH(threshold=_MIN_FORK_SIMILARITY, num_perm=_PERMUTATIONS, num_bands=_BANDS)
    similarities: dict[tuple[int, int], float] = {}
    for index, minhash in enumerate(lines):
        if minhash is None:
            continue
        for other in lsh.query(minhash):
            similarities[other, index] = lines[other].jaccard(minhash)
        lsh.insert(index, minhash)
    return similarities


def _sketch(head: str, commits: RepositoryRows, files: RepositoryRows) -> _Sketch:
    shas = [int(row["sha"][:16], 16) for row in commits.rows(["sha"])]
    hashes: set[int] = set()
    minhash = RMinHash(num_perm=_PERMUTATIONS, seed=1)
    has_lines = False
    for _, text in _texts(files, head):
        if len(text) >= _MIN_FILE_CHARACTERS:
            hashes.add(_hash_text(text))
        lines = [
            stripped
            for line in text.splitlines()
            if len(stripped := line.strip()) >= _MIN_LINE_CHARACTERS
        ]
        if lines:
            minhash.update(lines)
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


def _common_folder(files: RepositoryRows, head: str, copied: Hashes) -> str:
    """Return the deepest folder that holds more than half of the copied files."""
    copied_hashes = set(copied.tolist())
    paths = [
        PurePosixPath(path)
        for path, text in _texts(files, head)
        if len(text) >= _MIN_FILE_CHARACTERS and _hash_text(text) in copied_hashes
    ]
    folders = Counter(
        str(parent) for path in paths for parent in path.parents if str(parent) != "."
    )
    majority = [folder for folder, n_files in folders.items() if n_files > len(paths) / 2]
    return max(majority, key=lambda folder: folder.count("/"), default=".")


def _hash_text(text: str) -> int:
    # Without white space: copies may be reindented, and line endings differ.
    return int.from_bytes(blake2b(" ".join(text.split()).encode(), digest_size=8).digest(), "big")
