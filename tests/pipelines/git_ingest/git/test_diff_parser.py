"""Output of ``git diff-tree`` is parsed the same however it is split into blocks."""

import random

import pytest

from the_block_llm.pipelines.git_ingest.git import diff_parser
from the_block_llm.pipelines.git_ingest.git.diff_parser import DiffParser
from the_block_llm.pipelines.git_ingest.git.sandbox import GitProcessError

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


class _BlockParser(DiffParser):
    def __init__(self, data: bytes, seed: int) -> None:
        super().__init__()
        self._rest = data
        self._random = random.Random(seed)

    def _read_block(self) -> bytes:
        if not self._rest:
            raise GitProcessError
        n_bytes = self._random.randint(1, 60)
        block, self._rest = self._rest[:n_bytes], self._rest[n_bytes:]
        return block


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("lookahead_bytes", [0, 300, 1 << 20])
@pytest.mark.parametrize("max_uncompressed_bytes", [0, 1 << 20])
def test_a_commit_is_parsed_the_same_for_any_block_sizes(
    monkeypatch: pytest.MonkeyPatch, seed: int, lookahead_bytes: int, max_uncompressed_bytes: int
) -> None:
    monkeypatch.setattr(_BlockParser, "_lookahead_bytes", lookahead_bytes)
    monkeypatch.setattr(diff_parser, "_MAX_UNCOMPRESSED_BYTES", max_uncompressed_bytes)
    parser = _BlockParser(_CHANGES + _PATCH + _NEXT, seed)
    parsed = []
    for p in parser.patches(parser.changes(), b"\n" + _NEXT):
        identity = (p.change.path, p.change.old_path, p.change.status, p.change.similarity)
        parsed.append((identity, p.hunks, p.is_binary, p.additions, p.deletions))
    assert parsed == [
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
    assert parser.peek() == b"3"


@pytest.mark.parametrize("lookahead_bytes", [0, 1 << 20])
def test_more_patches_than_changes_are_an_error(
    monkeypatch: pytest.MonkeyPatch, lookahead_bytes: int
) -> None:
    monkeypatch.setattr(DiffParser, "_lookahead_bytes", lookahead_bytes)
    parser = DiffParser(_CHANGES[: _CHANGES.index(b":1")] + _PATCH + _NEXT)
    with pytest.raises(GitProcessError, match="more patches"):
        list(parser.patches(parser.changes(), b"\n" + _NEXT))
