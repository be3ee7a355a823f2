"""What was read, kept and left out, as the report that the user sees."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from the_block_llm.pipelines.git_ingest.redaction.redactor import EMAIL_KIND
from the_block_llm.pipelines.git_ingest.sharding.counts import Tally
from the_block_llm.pipelines.git_ingest.sources.fork_detection import describe_overlap

_FEW_COMMITS: Final = 100
_FEW_BYTES: Final = 200_000
_N_LARGEST: Final = 20


def describe_tally(tally: Tally) -> dict[str, Any]:
    """Lay out the counts of one table."""
    return {
        "rows": tally.rows,
        "kept_rows": tally.kept_rows,
        "kept_bytes": tally.kept_bytes,
        "dropped": {
            reason: {"rows": n_rows, "bytes": tally.dropped_bytes[reason]}
            for reason, n_rows in tally.dropped.most_common()
        },
        "kept_bytes_by_language": dict(tally.languages.most_common()),
        "encodings": dict(tally.encodings.most_common()),
        "redactions": dict(tally.redactions.most_common()),
        "findings": tally.findings,
        "n_findings": tally.n_findings,
        "missing_objects": tally.missing_objects,
        "missing": tally.missing,
        "unreadable_commits": tally.unreadable_commits,
        "largest_kept": [
            {"path": path, "bytes": n_bytes} for n_bytes, path in tally.largest[:_N_LARGEST]
        ],
    }


def ingest_report(
    repository: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    snapshots: Sequence[Mapping[str, Any]],
    overlaps: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Lay out what was read, kept and left out; ``summary`` is a sentence a repository.

    Args:
        repository: Facts of the repositories.
        history: Counts of commits and changes, one entry a repository.
        snapshots: Counts of files, one entry a snapshot.
        overlaps: What repositories share, one entry a pair.
    """
    failed = left_out(repository, history, snapshots)
    snapshots = [counts for counts in snapshots if "failed" not in counts]
    files: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for counts in snapshots:
        files[counts["repo"]].append(counts)
    read = [
        (facts, counts, files[facts["name"]])
        for facts, counts in zip(repository["repositories"], history, strict=True)
        if "failed" not in counts
    ]
    return {
        "summary": [_sentence(*one) for one in read],
        "repository": {
            key: value for key, value in repository.items() if key not in {"repositories", "failed"}
        },
        "left_out": failed,
        "overlaps": list(overlaps),
        "warnings": [
            *(f"Left out: {one['source']}. {one['reason']}" for one in failed),
            *map(describe_overlap, overlaps),
            *(warning for one in read for warning in _named(_warnings(*one), one[0], read)),
        ],
        "history": [counts for _, counts, _ in read],
        "snapshots": snapshots,
    }


def left_out(
    repository: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    snapshots: Sequence[Mapping[str, Any]],
) -> list[dict[str, str]]:
    """The repositories that could not be read, wherever that was found out, and why."""
    sources = {facts["name"]: facts["source"] for facts in repository["repositories"]}
    return [
        *repository.get("failed", ()),
        *(
            {"source": sources[counts["repo"]], "reason": counts["failed"]}
            for counts in (*history, *snapshots)
            if "failed" in counts
        ),
    ]


def _named(
    warnings: Sequence[str], facts: Mapping[str, Any], read: Sequence[object]
) -> Iterator[str]:
    """Warnings say whose they are where there are several."""
    return (f"{facts['name']}: {one}" if len(read) > 1 else one for one in warnings)


def _sentence(
    facts: Mapping[str, Any], history: Mapping[str, Any], snapshots: Sequence[Mapping[str, Any]]
) -> str:
    files = [s for s in snapshots if s["sha"] == facts["head"]]
    n_files, n_kept = (sum(s[key] for s in files) for key in ("rows", "kept_rows"))
    n_masked = sum(n for kind, n in history["redactions"].items() if kind != EMAIL_KIND)
    return (
        f"{facts['name']}: {history['commits']:,} commits ({history['informative_share']:.0%} with "
        f"a subject that says something), {history['kept_rows']:,} of {history['rows']:,} changes "
        f"and {n_kept:,} of {n_files:,} files kept, {n_masked:,} secrets masked in the history"
    )


def _warnings(
    facts: Mapping[str, Any], history: Mapping[str, Any], snapshots: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return sentences about what the user should know before training on this."""
    told = []
    n_commits = history["commits"]
    if n_commits < _FEW_COMMITS:
        told.append(
            f"Only {n_commits} commits: too few to learn much from, or to hold enough back for "
            "a fair evaluation."
        )
    at_ref = snapshots[-1]["kept_bytes"] if snapshots else 0
    if at_ref < _FEW_BYTES:
        told.append(f"Only {at_ref:,} bytes of files are kept: the model will see little code.")
    if facts["shallow"]:
        told.append(
            "The clone is shallow, so older history is absent. `git fetch --unshallow` brings it."
        )
    n_missing = history["missing_objects"] + sum(s["missing_objects"] for s in snapshots)
    if n_missing:
        objects = {m["object"] for counts in (history, *snapshots) for m in counts["missing"]}
        told.append(
            f"{n_missing:,} changes and files could not be read because {len(objects):,} objects "
            "are missing from the repository. They are marked missing_object, and the report "
            "names the objects under `missing`. `git fetch` from a whole clone may bring them."
        )
    if history["unreadable_commits"]:
        told.append(
            f"{len(history['unreadable_commits'])} commits have trees that cannot be read; "
            "what they changed is unknown."
        )
    if facts["borrows_objects"]:
        told.append(
            "The repository borrows objects from another one, which is not read. If you trust "
            "it, set git_ingest.follow_alternates=true."
        )
    if history["attributes_left_out"]:
        told.append(
            f"{history['attributes_left_out']:,} lines or files of .gitattributes are passed over: "
            "read are 1,000 files of up to 256 KiB, and of them 1,000 lines about linguist."
        )
    if history["informative_share"] < 0.5:
        told.append(
            f"{1 - history['informative_share']:.0%} of the subjects say nothing about their "
            "change and will not become training targets."
        )
    return told
