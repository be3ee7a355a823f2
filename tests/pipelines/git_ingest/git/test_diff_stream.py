"""What git prints is cut the same however it arrives; damage costs its own commit only."""

import random
from pathlib import Path

import pytest
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.pipelines.git_ingest.git import diff_parser
from the_block_llm.pipelines.git_ingest.git.diff_parser import DiffParser
from the_block_llm.pipelines.git_ingest.git.sandbox import GitProcessError
from the_block_llm.pipelines.git_ingest.history import damaged_commits

_ZERO, _ONE, _TWO = b"0" * 40, b"1" * 40, b"2" * 40
_CHANGES = (
    b":000000 100644 %s %s A\0a.py\0" % (_ZERO, _ONE)
    + b":100644 100644 %s %s R087\0old\nname\0new.txt\0" % (_ONE, _TWO)
    + b":100644 120000 %s %s T\0link\0" % (_ONE, _TWO)
    + b":100644 100644 %s %s M\0logo.png\0" % (_ONE, _TWO)
)
_PATCH = (
    b"\0diff --git a/a.py b/a.py\nnew file mode 100644\n--- /dev/null\n+++ b/a.py\n"
    b"@@ -0,0 +1,2 @@\n+one\n+@@ two\n"
    b'diff --git "a/old\\nname" b/new.txt\nsimilarity index 87%\n--- x\n+++ y\n'
    b"@@ -1,2 +1 @@\n one\n-diff --git a b\n"
    b"diff --git a/link b/link\ndeleted file mode 100644\n--- a/link\n+++ /dev/null\n"
    b"@@ -1 +0,0 @@\n-text\n"
    b"diff --git a/link b/link\nnew file mode 120000\n--- /dev/null\n+++ b/link\n"
    b"@@ -0,0 +1 @@\n+target\n\\ No newline at end of file\n"
    b"diff --git a/logo.png b/logo.png\nBinary files a/logo.png and b/logo.png differ\n"
)
_NEXT = b"3" * 40 + b"\0"


class _InBlocks(DiffParser):
    def __init__(self, data: bytes, seed: int) -> None:
        super().__init__()
        self._rest = data
        self._dice = random.Random(seed)

    def _read_block(self) -> bytes:
        if not self._rest:
            raise GitProcessError
        n_bytes = self._dice.randint(1, 60)
        block, self._rest = self._rest[:n_bytes], self._rest[n_bytes:]
        return block


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("at_hand_bytes", [0, 300, 1 << 20])
@pytest.mark.parametrize("plain_bytes", [0, 1 << 20])
def test_a_commit_is_cut_the_same_however_it_arrives(
    monkeypatch: pytest.MonkeyPatch, seed: int, at_hand_bytes: int, plain_bytes: int
) -> None:
    monkeypatch.setattr(_InBlocks, "_at_hand_bytes", at_hand_bytes)
    monkeypatch.setattr(diff_parser, "_PLAIN_BYTES", plain_bytes)
    reader = _InBlocks(_CHANGES + _PATCH + _NEXT, seed)
    told = []
    for p in reader.patches(reader.changes(), b"\n" + _NEXT):
        named = (p.change.path, p.change.old_path, p.change.status, p.change.similarity)
        told.append((named, p.hunks, p.is_binary, p.additions, p.deletions))
    assert told == [
        ((b"a.py", None, "A", None), b"@@ -0,0 +1,2 @@\n+one\n+@@ two\n", False, 2, 0),
        (
            (b"new.txt", b"old\nname", "R", 87),
            b"@@ -1,2 +1 @@\n one\n-diff --git a b\n", False, 0, 1,
        ),
        (
            (b"link", None, "T", None),
            b"@@ -1 +0,0 @@\n-text\n@@ -0,0 +1 @@\n+target\n\\ No newline at end of file\n",
            False, 1, 1,
        ),
        ((b"logo.png", None, "M", None), b"", True, 0, 0),
    ]  # fmt: skip
    assert reader.next_byte() == b"3"


@pytest.mark.parametrize("at_hand_bytes", [0, 1 << 20])
def test_more_patches_than_changes_is_no_answer_of_git(
    monkeypatch: pytest.MonkeyPatch, at_hand_bytes: int
) -> None:
    monkeypatch.setattr(DiffParser, "_at_hand_bytes", at_hand_bytes)
    reader = DiffParser(_CHANGES[: _CHANGES.index(b":1")] + _PATCH + _NEXT)
    with pytest.raises(GitProcessError, match="more patches"):
        list(reader.patches(reader.changes(), b"\n" + _NEXT))


def test_a_message_that_ends_with_the_next_sha_is_no_border(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    late = repository.commit("Late", {"b.py": "y = 1\n"}, at=1_800_000_000)
    early = repository.commit(f"Early\n\n{late}", {"a.py": "x = 1\n"}, at=1_700_000_000, parents=[])
    repository.commit("Both", parents=[late, early], at=1_900_000_000)
    got = ingest(repository.path, tmp_path / "out")
    assert got.rows("commits", "subject", "body", "files_changed") == [
        ("Early", late, 1),
        ("Late", "", 1),
        ("Both", "", 0),
    ]


def test_a_commit_before_and_the_rest_of_a_damaged_one_keep_their_renames(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    text = "".join(f"line {i}\n" for i in range(30))
    files = {"a.txt": text, "b.txt": text.upper(), "lost.txt": "old\n", "z.txt": "z\n"}
    repository.commit("One", files)
    repository.commit("Two", {"a.txt": None, "moved.txt": text + "more\n"})
    lost = {"lost.txt": "new\n", "z.txt": "y\n"}
    repository.commit("Three", lost | {"b.txt": None, "c.txt": text.upper() + "MORE\n"})
    repository.commit("Four", {"z.txt": "x\n"})
    repository.remove_object(repository.git("rev-parse", "HEAD:lost.txt"))
    got = ingest(repository.path, tmp_path / "out")
    assert got.rows("file_changes", "path", "old_path", "status", "drop_reason")[4:] == [
        ("moved.txt", "a.txt", "R", None),
        ("c.txt", "b.txt", "R", None),
        ("lost.txt", None, "M", "missing_object"),
        ("z.txt", None, "M", None),
        ("z.txt", None, "M", None),
    ]


@pytest.mark.parametrize(("most", "copy"), [(4, ("C", "a.txt")), (3, ("A", None))])
def test_a_damaged_commit_of_very_many_files_is_not_searched_for_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, copy: tuple[str, str | None]
) -> None:
    monkeypatch.setattr(damaged_commits, "_MOST_CHANGES_WITH_COPIES", most)
    repository = GitRepository(tmp_path / "project")
    text = "".join(f"line {i}\n" for i in range(30))
    repository.commit("One", {"a.txt": text, "b.txt": text.upper(), "lost.txt": "old\n"})
    changed = {"a.txt": text + "more\n", "copy.txt": text, "lost.txt": "new\n"}
    repository.commit("Two", changed, renames={"b.txt": "moved.txt"})
    repository.remove_object(repository.git("rev-parse", "HEAD:lost.txt"))
    got = ingest(repository.path, tmp_path / "out")
    assert got.rows("file_changes", "path", "status", "old_path")[3:] == [
        ("a.txt", "M", None),
        ("copy.txt", *copy),
        ("lost.txt", "M", None),
        ("moved.txt", "R", "b.txt"),
    ]


def test_the_commit_before_one_without_trees_is_whole(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    text = "".join(f"line {i}\n" for i in range(30))
    repository.commit("One", {"a.txt": text, "src/b.py": "x = 1\n"})
    repository.commit("Two", renames={"a.txt": "b.txt"})
    repository.commit("Three", {"src/b.py": "x = 2\n"})
    lost = repository.git("rev-parse", "HEAD:src")
    repository.commit("Four", {"b.txt": text + "more\n"})
    repository.remove_object(lost)
    got = ingest(repository.path, tmp_path / "out")
    assert got.rows("file_changes", "path", "old_path", "status")[2:3] == [("b.txt", "a.txt", "R")]
    assert got.rows("commits", "subject") == [("One",), ("Two",), ("Three",), ("Four",)]
