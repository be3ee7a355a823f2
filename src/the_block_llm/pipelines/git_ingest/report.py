"""Builds the report on what was read, kept and dropped."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from the_block_llm.pipelines.git_ingest.redaction.email_addresses import EMAIL_KIND
from the_block_llm.pipelines.git_ingest.sharding.counts import RowCounts
from the_block_llm.pipelines.git_ingest.sources.fork_detection import describe_overlap

_FEW_COMMITS: Final = 100
_FEW_BYTES: Final = 200_000
_N_LARGEST: Final = 20
# The report is given to others: without paths of this machine.
_NOT_REPORTED: Final = frozenset({"repositories", "failed", "git_dir", "common_dir"})


def describe_counts(counts: RowCounts) -> dict[str, Any]:
    """Return the report entries for the counts of one table."""
    return {
        "rows": counts.rows,
        "kept_rows": counts.kept_rows,
        "kept_bytes": counts.kept_bytes,
        "dropped": {
            reason: {"rows": n_rows, "bytes": counts.dropped_bytes[reason]}
            for reason, n_rows in counts.dropped.most_common()
        },
        "kept_bytes_by_language": dict(counts.languages.most_common()),
        "encodings": dict(counts.encodings.most_common()),
        "payloads_removed": {
            kind: {"number": number, "bytes": counts.payload_bytes[kind]}
            for kind, number in counts.payloads.most_common()
        },
        "redactions": dict(counts.redactions.most_common()),
        "findings": counts.findings,
        "n_findings": counts.n_findings,
        "missing_objects": counts.missing_objects,
        "missing": counts.missing,
        "unreadable_commits": counts.unreadable_commits,
        "corrected_dates": counts.corrected_dates,
        "largest_kept": [
            {"path": path, "bytes": n_bytes} for n_bytes, path in counts.largest[:_N_LARGEST]
        ],
    }


def build_report(
    repository: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    snapshots: Sequence[Mapping[str, Any]],
    overlaps: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the content of ``ingest_report.json``; ``summary`` is a sentence per repository.

    Args:
        repository: As in ``repository.json``.
        history: Counts of commits and changes, one entry per repository.
        snapshots: Counts of files, one entry per snapshot.
        overlaps: Forks and copied files, one entry per pair of repositories.
    """
    failed = failed_repositories(repository, history, snapshots)
    snapshots = [counts for counts in snapshots if "failed" not in counts]
    snapshots_of: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for counts in snapshots:
        snapshots_of[counts["repo"]].append(counts)
    read = [
        (info, counts, snapshots_of[info["name"]])
        for info, counts in zip(repository["repositories"], history, strict=True)
        if "failed" not in counts
    ]
    return {
        "summary": [_summary(*entry) for entry in read],
        "repository": {key: value for key, value in repository.items() if key not in _NOT_REPORTED},
        "left_out": failed,
        "overlaps": list(overlaps),
        "warnings": [
            *(f"Skipped: {entry['source']}. {entry['reason']}" for entry in failed),
            *map(describe_overlap, overlaps),
            *(
                warning
                for entry in read
                for warning in _with_name(_warnings(*entry), entry[0], read)
            ),
        ],
        "history": [counts for _, counts, _ in read],
        "snapshots": snapshots,
    }


def failed_repositories(
    repository: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    snapshots: Sequence[Mapping[str, Any]],
) -> list[dict[str, str]]:
    """Return source and reason of the repositories that failed at any stage."""
    sources = {info["name"]: info["source"] for info in repository["repositories"]}
    return [
        *repository.get("failed", ()),
        *(
            {"source": sources[counts["repo"]], "reason": counts["failed"]}
            for counts in (*history, *snapshots)
            if "failed" in counts
        ),
    ]


def _with_name(
    warnings: Sequence[str], info: Mapping[str, Any], read: Sequence[object]
) -> Iterator[str]:
    """Prefix warnings with the repository's name if there are several repositories."""
    return (f"{info['name']}: {text}" if len(read) > 1 else text for text in warnings)


def _summary(
    info: Mapping[str, Any], history: Mapping[str, Any], snapshots: Sequence[Mapping[str, Any]]
) -> str:
    files = [s for s in snapshots if s["sha"] == info["head"]]
    n_files, n_kept = (sum(s[key] for s in files) for key in ("rows", "kept_rows"))
    n_masked = sum(n for kind, n in history["redactions"].items() if kind != EMAIL_KIND)
    return (
        f"{info['name']}: {history['commits']:,} commits ({history['informative_share']:.0%} with "
        f"an informative subject), {history['kept_rows']:,} of {history['rows']:,} changes "
        f"and {n_kept:,} of {n_files:,} files kept, {n_masked:,} secrets masked in the history"
    )


def _warnings(
    info: Mapping[str, Any], history: Mapping[str, Any], snapshots: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return warnings that matter before training on this repository."""
    warnings = []
    n_commits = history["commits"]
    if n_commits < _FEW_COMMITS:
        warnings.append(
            f"Only {n_commits} commits: too few to learn much from, or to hold out enough for a "
            "reliable evaluation."
        )
    head_bytes = snapshots[-1]["kept_bytes"] if snapshots else 0
    if head_bytes < _FEW_BYTES:
        warnings.append(
            f"Only {head_bytes:,} bytes of files are kept: the model will see little code."
        )
    if info["shallow"]:
        warnings.append(
            "The clone is shallow: older history is absent. `git fetch --unshallow` fetches it."
        )
    n_missing = history["missing_objects"] + sum(s["missing_objects"] for s in snapshots)
    if n_missing:
        objects = {m["object"] for counts in (history, *snapshots) for m in counts["missing"]}
        warnings.append(
            f"{n_missing:,} changes and files could not be read because {len(objects):,} objects "
            "are missing from the repository. They are dropped as missing_object, and the report "
            "lists the objects under `missing`. `git fetch` from a complete clone may restore them."
        )
    if history["unreadable_commits"]:
        warnings.append(
            f"{len(history['unreadable_commits'])} commits have trees that cannot be read; "
            "their changes are unknown."
        )
    if history["corrected_dates"]:
        warnings.append(
            f"{history['corrected_dates']:,} commits have dates that cannot be right: before those "
            "of their parents, or in the future. The table has the nearest date that agrees with "
            "the history."
        )
    if info["borrows_objects"]:
        warnings.append(
            "The repository has alternate object stores, which are not read. If you trust it, set "
            "git_ingest.follow_alternates=true."
        )
    if history["attributes_left_out"]:
        warnings.append(
            f"{history['attributes_left_out']:,} lines or files of .gitattributes are ignored: "
            "the limits are 1,000 files of up to 256 KiB, and 1,000 lines with linguist attributes."
        )
    if history["informative_share"] < 0.5:
        warnings.append(
            f"{1 - history['informative_share']:.0%} of the subjects are uninformative and will "
            "not become training targets."
        )
    return warnings
