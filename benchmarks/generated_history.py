"""Generate tables of git_ingest for synthetic repositories of any total size.

Words are drawn from those of the installed Python packages, with their frequencies; sentences and
functions are new each time, so hardly any two texts are similar. One new file in a hundred is a
copy, so that deduplication has something to find.
"""

import keyword
import os
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha1
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from the_block_llm import schemas
from the_block_llm.datasets.parquet_table import save_table
from the_block_llm.execution.local_jobs import run_in_processes

CUTOFF: Final = 0.85
_START: Final = datetime(2022, 1, 1, tzinfo=UTC)
_DURATION_S: Final = 4 * 365 * 24 * 3600
_MAX_SOURCE_CHARACTERS: Final = 20_000_000
_VOCABULARY_WORDS: Final = 60_000
_WORDS_PER_DRAW: Final = 1 << 20
_NEW_FILE_FRACTION: Final = 0.15  # of the changes; the others rewrite parts of files
_COPY_FRACTION: Final = 0.01
_LANGUAGES: Final = {".py": "Python", ".rs": "Rust", ".md": "Markdown"}
_SUFFIXES: Final = (".py", ".rs", ".rs", ".rs", ".md")
_KINDS: Final = ("feature", "fix", "refactor", "perf", "docs", "test", "chore")
_BATCH_ROWS: Final = 512
_PART_BYTES: Final = 64 * 1024 * 1024
_COMMITS_PER_JOB: Final = 4000
_SCHEMAS: Final = {
    "commits": schemas.COMMITS,
    "file_changes": schemas.FILE_CHANGES,
    "snapshot_files": schemas.SNAPSHOT_FILES,
}

# Long blocks without comments are drawn twice as often as the others.
_PARAGRAPH: Final = (
    "%s %s %s %s %s %s %s %s, %s %s %s %s %s %s %s %s %s %s %s. %s %s %s %s %s `%s_%s` %s %s\n"
    "%s %s %s %s %s %s %s %s %s %s %s %s: %s %s %s %s %s %s %s. %s %s %s %s %s %s %s %s.\n\n"
)
_TWICE_PY: Final = 2 * (
    (
        "def _%s_%s_%s(%s, %s_%s, *, %s=None):\n    %s = [%s.%s(%s) for %s in %s_%s(%s, %s.%s)]\n"
        "    if not %s or %s_%s.%s is None:\n        raise ValueError(f'%s %s %s {%s.%s} %s %s')\n"
        "    with %s.%s_%s(%s, %s=%s) as %s:\n        # %s %s %s %s %s %s %s %s\n"
        "        for %s, %s in zip(%s.%s, %s_%s(%s), strict=True):\n"
        "            %s[%s.%s] = %s_%s.%s(%s, %s[%s])\n            %s_%s = %s_%s + %s.%s(%s, %s)\n"
        "            if %s_%s >= %s.%s_%s:\n                %s.%s('%s %s %s', %s_%s)\n"
        "                break\n        else:\n            %s.%s_%s(%s, %s, %s=%s.%s)\n"
        "    %s_%s.%s.update({%s.%s: %s_%s for %s in %s})\n"
        "    return {'%s_%s': %s, '%s': %s.%s, '%s_%s': %s_%s(%s, %s)}\n\n\n"
    ),
)
_TWICE_RS: Final = 2 * (
    (
        "fn %s_%s_%s(&mut self, %s: &%s, %s_%s: Option<%s>) -> Result<Vec<%s>, %s> {\n"
        "    let mut %s_%s = Vec::with_capacity(%s.%s_%s().%s);\n"
        "    let %s = self.%s_%s.get(&%s.%s).ok_or(%s::%s)?;\n"
        "    match %s.%s_%s(%s) {\n        %s::%s(%s) => %s_%s.push(%s.%s(%s)),\n"
        "        %s::%s { %s, %s } if %s > %s.%s => {\n            // %s %s %s %s %s %s %s\n"
        "            self.%s_%s.insert(%s.%s(), %s_%s.%s);\n            return Err(%s::%s(%s));\n"
        '        }\n        _ => tracing::warn!(%s = %s.%s, "%s %s %s %s %s"),\n    }\n'
        "    while let Some(%s) = %s.%s_%s(&%s_%s) {\n        if %s.%s != self.%s_%s.%s {\n"
        "            continue;\n        }\n        %s_%s.extend(%s.%s().map(|%s| %s.%s_%s(%s)));\n"
        "        self.%s -= %s.%s_%s;\n    }\n    Ok(%s_%s)\n}\n\n"
    ),
)
_TWICE_MD: Final = 2 * (4 * _PARAGRAPH,)
_BLOCKS: Final[dict[str, tuple[str, ...]]] = {
    ".py": (
        ('def %s_%s(%s: int, %s_%s: str) -> %s:\n    """%s %s %s %s %s %s %s.\n\n'
        "    %s %s %s %s %s %s %s %s %s %s %s,\n    %s %s %s %s %s %s %s.\n"
        '    """\n    %s_%s = %s.%s(%s, %s_%s)\n    for %s in %s_%s.%s(%s):\n'
        "        if %s.%s > %s_%s:\n            %s.%s_%s(%s[%s], %s=%s.%s)\n"
        "        %s[%s] = %s_%s(%s, %s.%s)  # %s %s %s %s %s\n"
        "    return %s_%s(%s, %s.%s)\n\n\n"),
        ('class %s%s:\n    """%s %s %s %s %s %s %s %s."""\n\n'
        "    def %s_%s(self, %s: str, %s_%s: float = 0.5) -> None:\n"
        '        """%s %s %s %s %s %s."""\n        self.%s_%s = %s.%s(%s)\n'
        "        self.%s = [%s.%s for %s in %s_%s if %s.%s]\n\n"
        "    def %s(self, %s):\n        with self.%s_%s(%s.%s) as %s:\n"
        "            return %s.%s_%s(%s, %s=%s)\n\n\n"),
        "%s_%s_%s = {\n    '%s_%s': %s.%s,\n    '%s_%s': %s.%s_%s,\n    '%s': %s_%s(%s),\n}\n\n\n",
        *_TWICE_PY,
    ),
    ".rs": (
        ("/// %s %s %s %s %s %s %s %s.\n///\n/// %s %s %s %s %s %s %s %s %s %s.\n"
        "pub fn %s_%s(%s: &%s, %s_%s: u64) -> Result<%s, %s> {\n"
        "    let %s_%s = %s.%s(%s_%s)?;\n    if %s_%s.%s() > %s.%s {\n"
        "        return Err(%s::%s_%s(%s, %s));\n    }\n"
        "    for %s in %s_%s.%s().%s(|%s| %s.%s_%s) {\n        // %s %s %s %s %s %s\n"
        "        %s.%s_%s(%s.%s, &%s_%s);\n    }\n    Ok(%s_%s.%s(%s))\n}\n\n"),
        ("/// %s %s %s %s %s %s %s.\n#[derive(Debug, Clone)]\npub struct %s%s {\n"
        "    /// %s %s %s %s %s.\n    pub %s_%s: %s,\n    %s_%s: Vec<%s>,\n    %s: %s,\n}\n\n"
        "impl %s%s {\n    /// %s %s %s %s %s %s %s.\n    pub fn %s(&self, %s: u32) -> %s {\n"
        "        self.%s_%s.%s(%s).%s_%s(|%s| %s.%s())\n    }\n}\n\n"),
        ("#[test]\nfn %s_%s_%s() {\n    let mut %s = %s::%s(%s_%s);\n"
        "    assert_eq!(%s.%s_%s(%s), %s_%s);\n    assert!(%s.%s(&%s_%s).%s());\n}\n\n"),
        *_TWICE_RS,
    ),
    ".md": (
        ("## %s %s %s\n\n%s %s %s %s %s %s %s %s %s %s %s %s %s. %s %s %s %s %s %s %s %s\n"
        "%s %s %s %s %s %s %s %s, %s %s %s %s %s. %s %s %s %s %s %s %s.\n\n"),
        ("### %s %s\n\n- `%s_%s`: %s %s %s %s %s %s %s\n- `%s.%s`: %s %s %s %s %s %s %s %s\n"
        "- %s %s %s %s %s %s %s %s %s\n\n%s %s %s %s %s %s %s %s %s %s %s.\n\n"),
        *_TWICE_MD,
    ),
}  # fmt: skip
_HEADS: Final = {
    ".py": '"""%s %s %s %s %s %s %s."""\n\nfrom %s import %s_%s\n\n\n',
    ".rs": "//! %s %s %s %s %s %s %s.\n\nuse %s::%s;\n\n",
    ".md": "# %s %s %s\n\n%s %s %s %s %s %s %s %s %s %s.\n\n",
}


class Writer:
    """Generates text from words drawn with their frequencies in real code."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        words, counts = _load_words()
        self._words = np.array(words, object)
        self._cumulative = np.cumsum(counts) / counts.sum()
        self._word_stream = self._draw_words()
        self._slots = {
            template: template.count("%s")
            for templates in (*_BLOCKS.values(), _HEADS.values())
            for template in templates
        }

    def block(self, suffix: str, number: int) -> str:
        """Return a function, a class or a section."""
        templates = _BLOCKS[suffix]
        return self._fill(templates[number % len(templates)])

    def head(self, suffix: str) -> str:
        return self._fill(_HEADS[suffix])

    def _fill(self, template: str) -> str:
        return template % tuple(islice(self._word_stream, self._slots[template]))

    def sentence(self, n_words: int) -> str:
        return " ".join(islice(self._word_stream, n_words)).capitalize() + "."

    def name(self, n_words: int = 2) -> str:
        return "_".join(islice(self._word_stream, n_words))

    def _draw_words(self) -> Iterator[str]:
        while True:
            indices = np.searchsorted(self._cumulative, self._rng.random(_WORDS_PER_DRAW))
            yield from self._words[indices].tolist()


@dataclass
class Repository:
    """A repository that is being generated; files are lists of blocks."""

    name: str
    writer: Writer
    rng: random.Random
    times: list[datetime]
    cutoff: datetime
    files: dict[str, list[str]] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    commits: list[dict[str, Any]] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    at_cutoff: dict[str, str] = field(default_factory=dict)
    cutoff_sha: str | None = None

    def generate(self) -> None:
        self._folders = [
            "/".join(self.writer.name(1) for _ in range(self.rng.randint(1, 3)))
            for _ in range(max(3, len(self.times) // 60))
        ]
        for number, at in enumerate(self.times):
            if at > self.cutoff and self.cutoff_sha is None and self.commits:
                self._save_cutoff_tree()
            self._commit(number, at)
        if self.cutoff_sha is None:
            self._save_cutoff_tree()

    def _save_cutoff_tree(self) -> None:
        self.cutoff_sha = self.commits[-1]["sha"]
        self.at_cutoff = {path: "".join(blocks) for path, blocks in self.files.items()}

    def _commit(self, number: int, at: datetime) -> None:
        sha = sha1(f"{self.name} {number}".encode()).hexdigest()
        rng, rows = self.rng, []
        for _ in range(rng.choice((1, 1, 2, 3, 4, 6, 10))):
            if not self.files or rng.random() < _NEW_FILE_FRACTION:
                rows.append(self._create(sha))
            else:
                rows.append(self._rewrite(sha, rng.choice(self.paths)))
        rows = list({row["path"]: row for row in rows}.values())
        self.changes += rows
        n_sentences = rng.choice((0, 1, 2, 4, 7))
        self.commits.append({
            "repo": self.name, "sha": sha, "parents": [c["sha"] for c in self.commits[-1:]],
            "author_id": f"author{rng.randrange(9)}", "authored_at": at, "committed_at": at,
            "tz_offset_min": 0, "subject": self.writer.sentence(rng.randint(4, 9)).rstrip("."),
            "body": " ".join(self.writer.sentence(rng.randint(6, 16)) for _ in range(n_sentences)),
            "kind": rng.choice(_KINDS), "is_merge": False, "reverts": None, "is_bot": False,
            "informative": rng.random() < 0.7, "files_changed": len(rows),
            "insertions": sum(row["additions"] for row in rows),
            "deletions": sum(row["deletions"] for row in rows),
        })  # fmt: skip

    def _create(self, sha: str) -> dict[str, Any]:
        rng, writer = self.rng, self.writer
        suffix = rng.choice(_SUFFIXES)
        path = f"{rng.choice(self._folders)}/{writer.name()}{suffix}"
        if self.files and rng.random() < _COPY_FRACTION:
            other = rng.choice(self.paths)
            path = str(Path(path).with_suffix(Path(other).suffix))
            blocks = list(self.files[other])
        else:
            n_blocks = rng.choice((2, 4, 6, 9, 14, 25))
            blocks = [
                writer.head(suffix),
                *(writer.block(suffix, rng.randrange(60)) for _ in range(n_blocks)),
            ]
        if path not in self.files:
            self.paths.append(path)
        self.files[path] = blocks
        lines = "".join(blocks).splitlines()
        patch = f"@@ -0,0 +1,{len(lines)} @@\n" + "\n".join(f"+{line}" for line in lines) + "\n"
        return self._change(sha, path, "A", patch, len(lines), 0)

    def _rewrite(self, sha: str, path: str) -> dict[str, Any]:
        rng, blocks = self.rng, self.files[path]
        suffix = path[path.rfind(".") :]
        hunks, added, deleted = [], 0, 0
        starts = list(accumulate((block.count("\n") for block in blocks), initial=1))
        chosen = sorted(rng.sample(range(len(blocks)), min(len(blocks), rng.choice((1, 2, 3, 5)))))
        for at in chosen:
            old = blocks[at].splitlines()
            is_insertion = rng.random() < 0.3
            text = self.writer.block(suffix, rng.randrange(60))
            new = text.splitlines()
            before = blocks[at - 1].splitlines()[-3:] if at else []
            removed = [] if is_insertion else old
            hunks.append("\n".join([
                _hunk_header(starts[at], len(before) + len(removed), len(before) + len(new)),
                *(f" {line}" for line in before), *(f"-{line}" for line in removed),
                *(f"+{line}" for line in new),
            ]))  # fmt: skip
            blocks[at] = text + blocks[at] if is_insertion else text
            added, deleted = added + len(new), deleted + len(removed)
        return self._change(sha, path, "M", "\n".join(hunks) + "\n", added, deleted)

    def _change(
        self, sha: str, path: str, status: str, patch: str, added: int, deleted: int
    ) -> dict[str, Any]:
        return {
            "repo": self.name, "sha": sha, "path": path, "old_path": None, "status": status,
            "similarity": None, "language": _LANGUAGES[path[path.rfind(".") :]],
            "additions": added, "deletions": deleted, "patch": patch, "encoding": "utf-8",
            "kept": True, "drop_reason": None, "redactions": 0,
        }  # fmt: skip

    def snapshot(self) -> Iterator[dict[str, Any]]:
        """Return the rows of the trees at the cut-off and at the head."""
        head = {path: "".join(blocks) for path, blocks in self.files.items()}
        last = self.commits[-1]["sha"]
        trees = {self.cutoff_sha: self.at_cutoff, last: head}
        for sha, tree in trees.items():
            for path in sorted(tree):
                yield {
                    "repo": self.name, "sha": sha, "path": path,
                    "language": _LANGUAGES[path[path.rfind(".") :]],
                    "size_bytes": len(tree[path]), "text": tree[path], "kept": True,
                    "drop_reason": None, "redactions": 0,
                }  # fmt: skip


def _hunk_header(line: int, n_before: int, n_after: int) -> str:
    return f"@@ -{line},{n_before} +{line},{n_after} @@"


def write_tables(
    folder: Path, n_commits: int, n_repositories: int, seed: int = 0, spread: float = 1
) -> dict[str, Any]:
    """Write the tables of several repositories below ``folder``, on all cores.

    Args:
        folder: Where ``commits``, ``file_changes`` and ``snapshot_files`` are written.
        n_commits: Of all repositories together.
        n_repositories: Their sizes are log-normal; with the default spread the largest is some
            twenty times the median.
        seed: Random seed.
        spread: Sigma of that distribution; 0 makes all the same size.

    Returns:
        The content of ``repository.json``.
    """
    rng = random.Random(seed)
    weights = [rng.lognormvariate(0, spread) for _ in range(n_repositories)]
    counts = [max(6, round(n_commits * weight / sum(weights))) for weight in weights]
    jobs, numbered, pending = [], list(enumerate(counts)), 0
    start = 0
    for number, count in numbered:
        pending += count
        if pending >= _COMMITS_PER_JOB or number + 1 == n_repositories:
            jobs.append((write_parts, (folder, numbered[start : number + 1], seed)))
            start, pending = number + 1, 0
    n_processes = min(len(jobs), os.cpu_count() or 1)
    written = list(run_in_processes(jobs, n_processes))
    for name, schema in _SCHEMAS.items():
        save_table(folder / name, schema, [part for parts, _ in written for part in parts[name]])
    facts = [fact for _, job_facts in written for fact in job_facts]
    return {**facts[0], "repositories": facts}


def write_parts(
    folder: Path, counts: Sequence[tuple[int, int]], seed: int
) -> tuple[dict[str, list[Path]], list[dict[str, Any]]]:
    """Write parts of the tables, for some repositories.

    Args:
        folder: Of all tables.
        counts: Number of each repository, and how many commits it has.
        seed: Random seed of all repositories.

    Returns:
        The parts by table, and the entries of ``repository.json``.
    """
    cutoff = _START + timedelta(seconds=int(_DURATION_S * CUTOFF))
    facts: list[dict[str, Any]] = []

    def generated() -> Iterator[Repository]:
        for number, count in counts:
            rng = random.Random(f"{seed} {number}")
            writer = Writer(rng.randrange(1 << 32))
            seconds = sorted(rng.randrange(_DURATION_S) for _ in range(count - 2))
            # At least one commit before and after the cut-off.
            times = [_START + timedelta(seconds=second) for second in (0, *seconds, _DURATION_S)]
            repository = Repository(f"{writer.name()}-{number}", writer, rng, times, cutoff)
            repository.generate()
            facts.append({
                "name": repository.name, "head": repository.commits[-1]["sha"], "n_commits": count,
                "cutoff": {"spec": CUTOFF, "sha": repository.cutoff_sha, "time": cutoff.isoformat()},
            })  # fmt: skip
            yield repository

    return _save_parts(folder / "parts" / str(counts[0][0]), generated()), facts


def _save_parts(folder: Path, repositories: Iterator[Repository]) -> dict[str, list[Path]]:
    """Write the three tables together, part by part: each repository is generated once."""
    parts: dict[str, list[Path]] = {name: [] for name in _SCHEMAS}
    pending: dict[str, list[pa.RecordBatch]] = {name: [] for name in _SCHEMAS}

    def flush(name: str) -> None:
        if pending[name]:
            part_folder = folder / f"{name}-{len(parts[name])}"
            parts[name] += save_table(part_folder, _SCHEMAS[name], pending[name]).parts
            pending[name] = []

    for repository in repositories:
        rows = {
            "commits": repository.commits, "file_changes": repository.changes,
            "snapshot_files": repository.snapshot(),
        }  # fmt: skip
        for name, table_rows in rows.items():
            pending[name] += _batches(table_rows, _SCHEMAS[name])
            if sum(batch.nbytes for batch in pending[name]) > _PART_BYTES:
                flush(name)
    for name in _SCHEMAS:
        flush(name)
    return parts


def _batches(rows: Any, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    remaining = iter(rows)
    while batch := list(islice(remaining, _BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist(batch, schema)


@cache
def _load_words() -> tuple[Sequence[str], np.ndarray[Any, np.dtype[np.int64]]]:
    """Return the words of the installed packages, and how often each occurs."""
    counts: Counter[str] = Counter()
    remaining_characters = _MAX_SOURCE_CHARACTERS
    for path in sorted(Path(np.__file__).parent.parent.rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        counts.update(re.findall(r"(?<![A-Za-z])[a-z]{2,14}(?![A-Za-z])", text))
        remaining_characters -= len(text)
        if remaining_characters < 0:
            break
    for word in keyword.kwlist:
        counts.pop(word, None)
    words = sorted(counts.most_common(_VOCABULARY_WORDS))
    return [word for word, _ in words], np.array([count for _, count in words], np.int64)
