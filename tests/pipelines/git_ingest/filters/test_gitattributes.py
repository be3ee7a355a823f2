"""`.gitattributes` declare files as generated, vendored, documentation or of a language."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.builders.git_repository import GitRepository, Symlink
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.languages import canonical_language
from the_block_llm.pipelines.git_ingest.filters.gitattributes import (
    FileAttributes,
    attribute_matcher,
    parse_gitattributes,
)


def _attributes(path: bytes, **files: str) -> FileAttributes:
    """Return the attributes of ``path``; keywords are folders (``root`` for the top) and lines."""
    sources = [
        (b"" if name == "root" else name.encode().replace(b"__", b"/") + b"/", text.encode())
        for name, text in files.items()
    ]
    return attribute_matcher(parse_gitattributes(sources))(path)


@pytest.mark.parametrize(
    ("line", "path", "matches"),
    [
        ("*.rs", "a.rs", True),
        ("*.rs", "deep/down/a.rs", True),
        ("*.rs", "a.rs/b.py", False),
        ("src/*.rs", "src/a.rs", True),
        ("src/*.rs", "src/deep/a.rs", False),
        ("src/*.rs", "other/src/a.rs", False),
        ("/a.rs", "a.rs", True),
        ("/a.rs", "src/a.rs", False),
        ("src/**", "src/deep/a.rs", True),
        ("**/gen/*", "gen/a", True),
        ("**/gen/*", "x/y/gen/a", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("src/", "src/a.rs", False),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[ab].c", "b.c", True),
        ("[!ab].c", "b.c", False),
        ("[[:digit:]].c", "7.c", True),
        ("[a", "[a", False),
        (r"\*.c", "*.c", True),
        (r"\*.c", "x.c", False),
        ('"with space.c"', "with space.c", True),
        (r'"tab\there"', "tab\there", True),
        (r'"\303\274.c"', "ü.c", True),
        ("!a.c", "a.c", False),
    ],
)
def test_patterns_match_as_in_git(line: str, path: str, matches: bool) -> None:
    attributes = _attributes(path.encode(), root=f"{line} linguist-generated")
    assert attributes.generated is (True if matches else None)


def test_the_last_line_and_the_deepest_folder_take_precedence() -> None:
    root = "* linguist-generated\n*.py -linguist-generated\n"
    assert _attributes(b"a.rs", root=root).generated is True
    assert _attributes(b"a.py", root=root).generated is False
    assert (
        _attributes(b"src/a.py", root=root, src="*.py linguist-generated=true\n").generated is True
    )
    assert _attributes(b"src/a.py", root=root, src="a.py !linguist-generated\n").generated is None
    assert (
        _attributes(b"src/a.py", root=root, src="a.py linguist-generated=false\n").generated
        is False
    )


def test_macros_are_defined_in_the_root_only() -> None:
    root = "*.gen made\n[attr]made linguist-generated -diff\nkeep.gen -made\n"
    assert _attributes(b"a.gen", root=root).generated is True
    assert _attributes(b"keep.gen", root=root).generated is None
    assert _attributes(b"src/a.x", src="*.x made\n[attr]made linguist-generated").generated is None


def test_languages_are_known_by_name_and_alias() -> None:
    assert _attributes(b"a.inc", root="*.inc linguist-language=php").language == "PHP"
    assert _attributes(b"a.l", root="*.l linguist-language=Common-Lisp").language == "Common Lisp"
    assert _attributes(b"a.l", root="*.l linguist-language=Nonsuch").language is None
    assert canonical_language("C++") == "C++"


_NAMES = ["a", "b", "ab", "x.c", "a.c"]
_PATTERN = st.one_of(
    st.text("ab*?/.c[]!^-\\x", min_size=1, max_size=8),
    st.lists(st.sampled_from(["**", "*", "a", "b", "*.c", "a*", "?"]), min_size=1, max_size=4).map(
        "/".join
    ),
)
_SETTING = st.sampled_from(
    ["linguist-generated", "-linguist-generated", "!linguist-generated", "made", "-made", "diff",
     "linguist-generated=false", "linguist-vendored", "made linguist-vendored=x", "-"]
)  # fmt: skip
_LINES = st.lists(st.tuples(_PATTERN, _SETTING).map(" ".join), max_size=5)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(root=_LINES, inner=_LINES, macro=st.booleans())
@example(root=["a**/b linguist-generated"], inner=[], macro=False)
def test_attributes_agree_with_git_check_attr(
    tmp_path_factory: pytest.TempPathFactory, root: list[str], inner: list[str], macro: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "attributes"
    if not folder.exists():
        GitRepository(folder)
        (folder / "a").mkdir()
    root = [*root, "[attr]made linguist-generated linguist-vendored"] if macro else root
    files = {b"": "\n".join(root).encode(), b"a/": "\n".join(inner).encode()}
    (folder / ".gitattributes").write_bytes(files[b""])
    (folder / "a" / ".gitattributes").write_bytes(files[b"a/"])
    paths = [f"{p}{n}" for p in ("", "a/", "b/", "a/a/", "ab/b/") for n in _NAMES]
    output = subprocess.run(
        ["git", "check-attr", "-z", "--stdin", "linguist-generated", "linguist-vendored"],
        cwd=folder,
        input="\0".join(paths).encode(),
        env=os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_ATTR_NOSYSTEM": "1"},
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    by_git = dict(zip(zip(output[::3], output[1::3], strict=False), output[2::3], strict=False))
    attributes_of = attribute_matcher(parse_gitattributes(files.items()))
    truth = {b"set": True, b"unset": False, b"unspecified": None, b"false": False}
    for path in map(str.encode, paths):
        actual = attributes_of(path)
        expected = [
            truth.get(by_git[path, name], True)
            for name in (b"linguist-generated", b"linguist-vendored")
        ]
        assert [actual.generated, actual.vendored] == expected, path


def test_files_and_patches_follow_the_attributes_of_their_tree(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit(
        "One",
        {
            ".gitattributes": "*.tmpl linguist-language=Rust\napi/** linguist-generated\n"
            "docs/** linguist-documentation\n",
            "api/.gitattributes": "own.py -linguist-generated\n",
            "api/client.py": "x = 1\n",
            "api/own.py": "# Code generated by hand. DO NOT EDIT.\nx = 1\n",
            "docs/guide.md": "Guide\n",
            "lib/.gitattributes": "* linguist-vendored\n",
            "lib/theirs.c": "int x;\n",
            "part.tmpl": "fn main() {}\n",
            "third_party/.gitattributes": "*.c -linguist-vendored\n",
            "third_party/ours.c": "int y;\n",
        },
    )
    result = ingest(repository.path, tmp_path / "out")
    expected = {
        "api/client.py": ("Python", "generated"),
        "api/own.py": ("Python", None),
        "docs/guide.md": ("Markdown", None),
        "lib/theirs.c": ("C", "vendored"),
        "part.tmpl": ("Rust", None),
        "third_party/ours.c": ("C", None),
    }
    for table in ("snapshot_files", "file_changes"):
        rows = result.rows(table, "path", "language", "drop_reason")
        found = {path: rest for path, *rest in rows if ".gitattributes" not in path}
        assert {path: tuple(rest) for path, rest in found.items()} == expected
    assert result.report["snapshots"][0]["kept_bytes_by_language"]["documentation"] == 6


def test_changed_attributes_are_read_again_and_each_snapshot_uses_its_own(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"api.py": "x = 1\n"})
    ingest(repository.path, tmp_path / "out", cutoff=0.5)
    repository.commit("Two", {".gitattributes": "api.py linguist-generated\n"})
    result = ingest(repository.path, tmp_path / "out", cutoff=0.5)
    assert result.rows("snapshot_files", "path", "drop_reason") == [
        ("api.py", None),
        (".gitattributes", None),
        ("api.py", "generated"),
    ]
    assert result.rows("file_changes", "path", "drop_reason")[0] == ("api.py", "generated")


def test_a_symlink_or_a_huge_gitattributes_file_is_ignored(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    outside = tmp_path / "outside"
    outside.write_text("* linguist-generated\n")
    repository.commit(
        "One",
        {
            ".gitattributes": Symlink(str(outside)),
            "huge/.gitattributes": "* linguist-generated\n" * 20_000,
            "huge/a.py": "x = 1\n",
        },
    )
    result = ingest(repository.path, tmp_path / "out")
    assert dict(result.rows("snapshot_files", "path", "drop_reason"))["huge/a.py"] is None


def test_the_report_warns_above_a_thousand_rules(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    lines = "".join(f"f{i}.py linguist-generated\n" for i in range(1200))
    repository.commit("One", {".gitattributes": lines, "f3.py": "x = 1\n", "f1100.py": "y = 1\n"})
    result = ingest(repository.path, tmp_path / "out")
    assert dict(result.rows("snapshot_files", "path", "drop_reason"))["f3.py"] == "generated"
    assert any(
        "200 lines or files of .gitattributes" in warning for warning in result.report["warnings"]
    )
