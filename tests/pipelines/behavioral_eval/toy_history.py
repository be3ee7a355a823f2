"""Tables of a small synthetic repository with a cut-off in the middle."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from the_block_llm import schemas
from the_block_llm.datasets.cutoff import Cutoff
from the_block_llm.datasets.parquet_table import ParquetTable, save_table

START = datetime(2026, 1, 1, tzinfo=UTC)
AREAS = ("consensus", "ledger", "market", "network", "storage", "wallet")
N_EARLIER = 24
N_LATER = 12
CUTOFF = Cutoff("snapshot", START + timedelta(days=N_EARLIER), "head")


def tables(folder: Path) -> dict[str, ParquetTable]:
    """Write the tables ``commits``, ``file_changes`` and ``snapshot_files``."""
    commits, changes = [], []
    for number in range(N_EARLIER + N_LATER):
        sha = f"{number:04x}{number:036x}"
        area = AREAS[number % len(AREAS)]
        commits.append(commit_row(sha, number, f"{area}: teach it trick number {number}"))
        changes += [
            change_row(sha, f"src/{area}/mod.rs", "M", patch(area, number)),
            change_row(sha, f"src/{area}/rules.rs", "M", function_patch(area, number + 100)),
        ]
        if number >= N_EARLIER:
            changes.append(
                change_row(sha, f"src/{area}/new_{number}.rs", "A", patch(area, number + 200))
            )
    files = [
        *(file_row("snapshot", path, text) for path, text in tree(later=False).items()),
        *(file_row("head", path, text) for path, text in tree(later=True).items()),
        {**file_row("snapshot", "Cargo.lock", "x"), "kept": False, "text": None},
    ]
    return {
        name: save_table(folder / name, schema, [pa.Table.from_pylist(rows, schema)])
        for name, schema, rows in (
            ("commits", schemas.COMMITS, commits),
            ("file_changes", schemas.FILE_CHANGES, changes),
            ("snapshot_files", schemas.SNAPSHOT_FILES, files),
        )
    }


def tree(*, later: bool) -> dict[str, str]:
    files = {}
    for area in AREAS:
        for name in ("mod", "rules", "state", "tests", area):
            files[f"src/{area}/{name}.rs"] = f"// The {name} of the {area}.\npub fn {area}() {{}}\n"
        sections = 4 if later else 2
        files[f"docs/{area}.md"] = "\n\n".join(
            f"## {area} part {n}\n\n" + f"Part {n} of the {area} explains rule {n} at length. " * 3
            for n in range(sections)
        )
    return files


def patch(area: str, number: int) -> str:
    lines = [f"+    let {area}_{number}_{line} = {area}::step({line});" for line in range(6)]
    return "@@ -1,2 +1,8 @@\n fn run() {\n" + "\n".join(lines) + "\n }\n"


def function_patch(area: str, number: int) -> str:
    lines = [f"+    let {area}_{line} = {area}::step({line});" for line in range(6)]
    added = "\n".join(["+", f"+pub fn rule_{number}() {{", *lines, "+}"])
    return f"@@ -1,2 +1,11 @@\n fn run() {{}}\n{added}\n fn end() {{}}\n"


def commit_row(sha: str, day: int, subject: str) -> dict:
    time = START + timedelta(days=day + 1)
    return {
        "repo": "chain", "sha": sha, "parents": [], "author_id": "a", "authored_at": time,
        "committed_at": time, "tz_offset_min": 0, "subject": subject, "body": "", "kind": "other",
        "is_merge": False, "reverts": None, "is_bot": False, "informative": True,
        "files_changed": 2, "insertions": 1, "deletions": 1,
    }  # fmt: skip


def change_row(sha: str, path: str, status: str, text: str) -> dict:
    return {
        "repo": "chain", "sha": sha, "path": path, "old_path": None, "status": status,
        "similarity": None, "language": "Rust", "additions": 6, "deletions": 0, "patch": text,
        "encoding": "utf-8", "kept": True, "drop_reason": None, "redactions": 0,
    }  # fmt: skip


def file_row(sha: str, path: str, text: str) -> dict:
    return {
        "repo": "chain", "sha": sha, "path": path, "language": "Rust", "size_bytes": len(text),
        "text": text, "kept": True, "drop_reason": None, "redactions": 0,
    }  # fmt: skip
