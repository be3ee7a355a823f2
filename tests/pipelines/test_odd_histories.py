"""From git to packed rows: commits with impossible dates, and everything else that git allows."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.builders.git_repository import (
    FIRST_COMMIT_AT,
    Executable,
    GitRepository,
    Submodule,
    Symlink,
)
from tests.builders.tiny_llama import save_tiny_llama, tiny_profile
from tests.pipelines.git_ingest.ingesting import IngestResult, ingest

from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.models.profiles import ModelProfiles
from the_block_llm.pipelines.git_ingest.nodes import plot_ingest
from the_block_llm.pipelines.git_ingest.sharding.commit_times import MAX_TIME_S
from the_block_llm.pipelines.sequence_build import nodes
from the_block_llm.pipelines.sequence_build.params import SequenceBuildParams
from the_block_llm.schemas import DOCUMENTS, ROWS

DAY = 86_400
N_COMMITS = 20


@pytest.fixture(scope="module")
def profile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("model"))


def build_rows(result: IngestResult, folder: Path, model: Path) -> dict[str, ParquetTable]:
    """Run the nodes of sequence_build on ingested tables; return the rows of each split."""
    params = SequenceBuildParams.model_validate({"cutoff": 0.8})
    choices: Any = (ModelProfiles({"tiny": tiny_profile(model)}), "tiny", params)
    tables = (result.repository, result.commits, result.file_changes, result.snapshot_files)
    screening = nodes.screen_documents(*tables, *choices)
    documents = save_table(
        folder / "documents", DOCUMENTS, nodes.render_documents(*tables, screening, *choices)
    )
    rows = {
        split: save_table(folder / split, ROWS, pack(documents, *choices))
        for split, pack in (
            ("train", nodes.pack_train),
            ("validation", nodes.pack_validation),
            ("held_out", nodes.pack_held_out),
        )
    }
    facts = nodes.describe_rows(*choices)
    nodes.report_sequences(
        result.repository, result.commits, documents, screening, facts, *rows.values(), *choices
    )
    return rows


def check_split(result: IngestResult) -> None:
    """Check that each commit is at or after its parents, and that no ancestor is held out."""
    columns = ("sha", "parents", "committed_at", "authored_at")
    commits = {sha: (parents, at) for sha, parents, at, _ in result.rows("commits", *columns)}
    for parents, at in commits.values():
        assert 0 <= at.timestamp() <= MAX_TIME_S
        assert all(commits[parent][1] <= at for parent in parents if parent in commits)
    cutoff = result.repository["cutoff"]["time"]
    trained = {sha for sha, (_, at) in commits.items() if at.isoformat() <= cutoff}
    assert result.repository["cutoff"]["sha"] in trained
    assert 0.5 * len(commits) <= len(trained) < len(commits)
    for *_, at, authored in result.rows("commits", *columns):
        assert 0 <= authored.timestamp() <= at.timestamp() + DAY


def person(date: bytes) -> bytes:
    return b"Ann <ann@example.org> " + date


def all_are(date: bytes) -> Callable[[int], bytes]:
    return lambda number: date


def one_is(date: bytes, position: int) -> Callable[[int], bytes]:
    return lambda number: date if number == position else normal(number)


def run_is(date: bytes, positions: range) -> Callable[[int], bytes]:
    return lambda number: date if number in positions else normal(number)


def normal(number: int) -> bytes:
    return b"%d +0000" % (FIRST_COMMIT_AT + number * DAY)


_WILD = {
    "milliseconds": b"1700000000000 +0000",
    "microseconds": b"1700000000000000 +0000",
    "zero": b"0 +0000",
    "one": b"1 +0000",
    "negative": b"-86400 +0000",
    "year-2099": b"4080000000 +0000",
    "int64": b"9223372036854775807 +0000",
    "more-than-int64": b"9223372036854775808 +0000",
    "uint64": b"18446744073709551615 +0000",
    "thirty-digits": b"9" * 30 + b" +0000",
    "no-date": b"",
    "words": b"yesterday +0000",
    "fraction": b"1700000000.5 +0000",
    "hexadecimal": b"0x65538D00 +0000",
}
_OFFSETS = (b"+9999", b"-2400", b"+5150", b"-9999", b"+0530", b"+99999", b"", b"UTC", b"+00:00")
DATES: dict[str, Callable[[int], bytes]] = {
    **{f"{name}-in-the-middle": one_is(date, 10) for name, date in _WILD.items()},
    **{f"{name}-at-the-tip": one_is(date, N_COMMITS - 1) for name, date in _WILD.items()},
    **{f"{name}-at-the-root": one_is(date, 0) for name, date in _WILD.items()},
    **{f"{name}-everywhere": all_are(date) for name, date in _WILD.items()},
    **{f"{name}-in-a-run": run_is(date, range(5, 9)) for name, date in _WILD.items()},
    **{f"{name}-in-the-last-run": run_is(date, range(15, 20)) for name, date in _WILD.items()},
    **{
        f"offset-{offset.decode()}": one_is(b"%d %s" % (FIRST_COMMIT_AT + 10 * DAY, offset), 10)
        for offset in _OFFSETS
    },
    "all-equal": all_are(b"1700000000 +0000"),
    "two-seconds": lambda number: b"%d +0000" % (FIRST_COMMIT_AT + number % 2),
    "backwards": lambda number: b"%d +0000" % (FIRST_COMMIT_AT - number * 365 * DAY),
    "half-backwards": lambda n: normal(n) if n < 10 else b"%d +0000" % (FIRST_COMMIT_AT - n * DAY),
    "alternating": lambda number: normal(number if number % 2 else number - 3000),
    "before-1990": lambda number: b"%d +0000" % (500_000_000 + number * DAY),
}  # fmt: skip


@pytest.mark.parametrize("name", DATES)
def test_impossible_dates_leave_a_split_in_the_order_of_the_history(
    tmp_path: Path, name: str
) -> None:
    repository = GitRepository(tmp_path / "project")
    for number in range(N_COMMITS):
        line = person(DATES[name](number))
        files = {f"part{number:02}.py": f"def part{number}() -> int: ...\n"}
        repository.write_commit(f"Explain the part called part{number}", line, line, files)
    result = ingest(repository.path, tmp_path / "out", cutoff=0.8)
    assert len(result.rows("commits", "sha")) == N_COMMITS
    subjects = [subject.split()[-1] for (subject,) in result.rows("commits", "subject")]
    assert subjects == [f"part{number}" for number in range(N_COMMITS)]
    check_split(result)
    if name.endswith("everywhere") or name in {"all-equal", "backwards", "zero-at-the-root"}:
        for figure in plot_ingest(result.repository, result.commits, result.report):
            figure.savefig(io.BytesIO())


@pytest.mark.parametrize(
    ("author", "committer"),
    [
        (None, person(b"1700000000 +0000")),
        (person(b"1700000000 +0000"), None),
        (None, None),
        (b"Ann", b"Ann"),
        (b"", b""),
        (b"Ann <ann@example.org>", b"Ann <ann@example.org>"),
        (b"<> 1 +0000", b"<> 1 +0000"),
        (b"Ann ann@example.org 1700000000 +0000", b"Ann ann@example.org 1700000000 +0000"),
        (b"Ann <a<b>c> 1700000000 +0000", b"Ann <a<b>c> 1700000000 +0000"),
        (b"Ann <ann@example.org> 1700000000", b"Ann <ann@example.org> 1700000000"),
        (b"\xff\xfe <\xff> 1700000000 +0000", b"\xff\xfe <\xff> 1700000000 +0000"),
        (b"Ann \0 <ann@example.org> 1 +0000", person(b"1700000000 +0000")),
        (person(b"1700000000000 +0000"), person(b"1700000000 +0000")),
        (person(b"0 +0000"), person(b"1700000000 +0000")),
    ],
)
def test_a_malformed_author_or_committer_line_is_a_row(
    tmp_path: Path, author: bytes | None, committer: bytes | None
) -> None:
    repository = GitRepository(tmp_path / "project")
    for number in range(4):
        repository.write_commit(f"Before {number}", person(normal(number)), person(normal(number)))
    repository.write_commit("Odd", author, committer)
    for number in range(5, N_COMMITS):
        repository.write_commit(f"After {number}", person(normal(number)), person(normal(number)))
    result = ingest(repository.path, tmp_path / "out", cutoff=0.8)
    assert len(result.rows("commits", "sha")) == N_COMMITS
    check_split(result)


@pytest.mark.parametrize(
    "name",
    ["milliseconds-in-the-middle", "year-2099-at-the-tip", "zero-in-the-last-run", "all-equal",
     "backwards", "milliseconds-everywhere"],
)  # fmt: skip
def test_impossible_dates_end_in_rows_of_all_three_splits(
    tmp_path: Path, name: str, profile_folder: Path
) -> None:
    repository = GitRepository(tmp_path / "project")
    words = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet",
             "jetty", "knoll", "larch"]  # fmt: skip
    for number in range(40):
        text = "".join(
            f"def {words[(number * 7 + line) % 12]}_{number}_{line}() -> int:\n"
            f"    return {number * 97 + line * line}\n\n\n"
            for line in range(6)
        )
        date = DATES[name](number // 2) if "every" not in name else DATES[name](number)
        subject = f"Compute the {words[number % 12]} of step {number} from its width"
        files = {f"{words[number % 12]}{number}.py": text}
        repository.write_commit(subject, person(date), person(date), files)
    result = ingest(repository.path, tmp_path / "out", cutoff=0.8)
    check_split(result)
    rows = build_rows(result, tmp_path / "rows", profile_folder)
    assert {split: table.num_rows > 0 for split, table in rows.items()} == dict.fromkeys(
        ("train", "validation", "held_out"), True
    )


_PATHS: tuple[str | bytes, ...] = (
    "new\nline.py", "tab\t.py", 'quote".py', "quote'.py", "back\\slash.py", "return\r.py",
    b"latin-\xe9.py", b"\xff\xfe.py", "-rf", "--output=x.py", "--", "*", "?.py", "[a].py",
    ":(exclude)x.py", ":/x.py", "!x.py", "#x.py", " leading.py", "trailing ", "README.md",
    "readme.md", "a.py ", "~", "~root/x.py", "$HOME.py", "`touch x`.py", "%s.py", "{path}.py",
    "caf\u00e9.py", "cafe\u0301.py", "\U0001f600.py", "CON", "aux.py", "x:y.py", "\x01\x7f.py",
    "x" * 255, "d/" * 1900 + "deep.py", "[bold]x[/bold].py", "<script>.py", "..py", ".../x.py",
    "\u202e.py", ".gitmodules", ".mailmap", ".gitattributes/x.py",
)  # fmt: skip


def odd_paths(repository: GitRepository) -> int:
    repository.commit("Add odd paths", dict.fromkeys(_PATHS, "def odd() -> int: ...\n"))
    repository.commit("Change odd paths", dict.fromkeys(_PATHS, "def odd() -> str: ...\n"))
    repository.commit("Drop odd paths", dict.fromkeys(_PATHS[:20]))
    return 3


def dot_git_in_a_tree(repository: GitRepository) -> int:
    blob = ("100644", repository.write_object("blob", b"[core]\n\tfsmonitor = touch x\n"))
    inner = ("40000", repository.write_tree({"config": blob, "HEAD": blob}))
    for number, name in enumerate((".git", ".GIT", "..", ".", "git~1", "a/b")):
        tree = repository.write_tree({"a.py": blob, name: inner if number < 5 else blob})
        parent = repository.git("rev-parse", "main")
        sha = repository.git("commit-tree", "-p", parent, "-m", f"Add {name}", tree)
        repository.git("update-ref", "refs/heads/main", sha)
    repository.commit("Go on", {"b.py": "x = 1\n"}, delete_all=True)
    return 7


def ten_thousand_files(repository: GitRepository) -> int:
    repository.commit("Import", {f"d{n % 100}/f{n}.py": f"x = {n}\n" for n in range(10_000)})
    return 1


def odd_messages(repository: GitRepository) -> int:
    messages: list[str | bytes] = [
        "", " ", "\n\n\n", "x" * 1_000_000, "Subject\n\n" + "body " * 200_000, b"\xff\xfe\xfa",
        b"nul \0 in it", "\ufeffmark", "caf\u00e9\r\n\r\nbody\r\n", "-----BEGIN PGP SIGNATURE-----",
        "diff --git a/x b/x\nindex 1..2\n--- a/x\n+++ b/x", "[bold red]x[/]", "\x1b[31mred\x1b[0m",
    ]  # fmt: skip
    for number, message in enumerate(messages):
        repository.commit(message, {"a.py": f"x = {number}\n"})
    return len(messages)


def empty_commits(repository: GitRepository) -> int:
    for number in range(3):
        repository.commit(f"Do nothing {number}")
    repository.commit("Delete everything", delete_all=True)
    repository.commit("Start again", {"a.py": "x = 1\n"})
    return 5


def octopus(repository: GitRepository) -> int:
    base = repository.git("rev-parse", "main")
    tips = [
        repository.commit(
            f"Side {n}", {f"side{n}.py": "x = 1\n"}, branch=f"side{n}", parents=[base]
        )
        for n in range(10)
    ]
    repository.commit("Merge ten branches", {f"side{n}.py": "x = 1\n" for n in range(10)},
                      parents=[base, *tips])  # fmt: skip
    return 11


def two_roots(repository: GitRepository) -> int:
    first = repository.git("rev-parse", "main")
    other = repository.commit("Another root", {"other.py": "x = 1\n"}, branch="other", parents=[])
    repository.commit("Merge histories", {"other.py": "x = 1\n"}, parents=[first, other])
    return 2


def links_modes_and_submodules(repository: GitRepository) -> int:
    steps: list[dict[str | bytes, Any]] = [
        {"sub": Submodule("1" * 40), "loop-a": Symlink("loop-b"), "loop-b": Symlink("loop-a")},
        {"sub": Submodule("2" * 40), "self": Symlink("."), "up": Symlink("../" * 60 + "etc")},
        {"sub": "now a file\n", "loop-a": "now a file\n", "run.sh": Executable(b"x = 1\n")},
        {"run.sh": b"x = 1\n", "long": Symlink("x" * 3000), "empty": Symlink("")},
        {"sub": None, "sub/x.py": "now a folder\n"},
    ]
    for number, files in enumerate(steps):
        repository.commit(f"Change kinds {number}", files)
    return len(steps)


def odd_refs(repository: GitRepository) -> int:
    head = repository.git("rev-parse", "main")
    blob = repository.write_object("blob", b"x")
    tree = repository.git("rev-parse", "main^{tree}")
    repository.git("tag", "-a", "-m", "Tag", "annotated", head)
    annotated = repository.git("rev-parse", "annotated")
    repository.git("notes", "add", "-m", "A note", head)
    repository.git("tag", "main", head)  # a branch and a tag of one name
    repository.git("replace", head, repository.git("rev-parse", "main~1"))
    for name, target in {
        "refs/heads/HEAD": head, "refs/heads/a-tag": annotated, "refs/heads/a-blob": blob,
        "refs/heads/a-tree": tree, "refs/heads/missing": "4" * 40, "refs/tags/HEAD": head,
        "refs/remotes/origin/HEAD": head, "refs/HEAD": head, "refs/heads/-rf": head,
        "refs/stash": head, "HEAD2": head,
    }.items():  # fmt: skip
        path = repository.git_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{target}\n")
    return 0


HISTORIES: tuple[Callable[[GitRepository], int], ...] = (
    odd_paths, dot_git_in_a_tree, ten_thousand_files, odd_messages, empty_commits, octopus,
    two_roots, links_modes_and_submodules, odd_refs,
)  # fmt: skip
SLOW = (ten_thousand_files, odd_messages)


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(build, marks=[pytest.mark.slow] if build in SLOW else [], id=build.__name__)
        for build in HISTORIES
    ],
)
def test_every_commit_of_an_odd_history_is_a_row_and_rows_can_be_packed(
    tmp_path: Path, build: Callable[[GitRepository], int], profile_folder: Path
) -> None:
    repository = GitRepository(tmp_path / "project")
    for number in range(12):
        repository.commit(
            f"Explain the step {number} of the ledger",
            {f"step{number}.py": f"def step_{number}(width: int) -> int:\n    return {number}\n"},
        )
    n_commits = 12 + build(repository)
    for number in range(12, 20):
        repository.commit(
            f"Extend the ledger by part {number}",
            {f"part{number}.py": f"class Part{number}:\n    size = {number * 977}\n"},
        )
    result = ingest(repository.path, tmp_path / "out", cutoff=0.8, all_branches=True)
    assert len(result.rows("commits", "sha")) == n_commits + 8
    check_split(result)
    for figure in plot_ingest(result.repository, result.commits, result.report):
        figure.savefig(io.BytesIO())
    rows = build_rows(result, tmp_path / "rows", profile_folder)
    assert rows["train"].num_rows > 0
    assert rows["held_out"].num_rows > 0
