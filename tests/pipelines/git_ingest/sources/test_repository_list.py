"""``repositories`` is a list, a text file or a folder of clones."""

from pathlib import Path

import pytest
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import build_repository

from the_block_llm.errors import ParameterError
from the_block_llm.pipelines.git_ingest.sources.repository_list import expand_repositories


def test_a_file_lists_repositories(tmp_path: Path) -> None:
    lines = "# the team's\nclones/one\n\nhttps://example.org/two.git # by URL\n/srv/three\n"
    (tmp_path / "list.txt").write_text(lines)
    assert expand_repositories(str(tmp_path / "list.txt")) == [
        str(tmp_path / "clones/one"),
        "https://example.org/two.git",
        "/srv/three",
    ]


def test_a_folder_of_clones_is_searched_recursively(tmp_path: Path, organization: Path) -> None:
    bare = GitRepository(organization / "host" / "team" / "bare.git", bare=True)
    bundled = build_repository(tmp_path / "elsewhere")
    bundled.git("bundle", "create", str(organization / "whole.bundle"), "--all")
    (organization / "loop").symlink_to(organization)
    names = [
        str(Path(source).relative_to(organization))
        for source in expand_repositories(str(organization))
    ]
    assert names == [
        "alpha", "broken", "empty", "host/team/bare.git", "hostile", "lost", "team/omega",
        "whole.bundle",
    ]  # fmt: skip
    assert expand_repositories(str(bare.path)) == [str(bare.path)]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no file or folder"), ("", "names no repository"), ("# nothing\n", "names no")],
)
def test_a_list_without_repositories_is_an_error(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "list").write_text(content)
    with pytest.raises(ParameterError, match=message):
        expand_repositories(str(tmp_path / "list"))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ParameterError, match="holds no git repository"):
        expand_repositories(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    "content",
    [
        b"# vendors\n/srv/one\n/srv/two\n",
        b"# v\n/srv/one\n/srv/two\n",
        b"# v2 git bundles, by team\n/srv/one\n/srv/two\n",
        b"\xef\xbb\xbf/srv/one\r\n/srv/two\r\n",
        "/srv/one\r\n/srv/two\r\n".encode("utf-16"),
        b"\n\n  # indented comment\n  /srv/one  \n/srv/two # why\n",
        b"/srv/one\n/srv/two",
    ],
)
def test_a_list_is_read_however_it_begins_and_was_saved(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list").write_bytes(content)
    assert expand_repositories(str(tmp_path / "list")) == ["/srv/one", "/srv/two"]


def test_a_hash_in_the_name_of_a_folder_is_no_comment(tmp_path: Path) -> None:
    (tmp_path / "my #1").mkdir()
    (tmp_path / "list").write_text("my #1\nmy #2\n")
    assert expand_repositories(str(tmp_path / "list")) == [
        str(tmp_path / "my #1"),
        str(tmp_path / "my"),
    ]


def test_a_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"PK\x03\x04\xff\xfe\xfd")
    with pytest.raises(ParameterError, match="is not a text file in UTF-8 .*byte 4"):
        expand_repositories(str(tmp_path / "list"))
    with pytest.raises(ParameterError, match="cannot be read: the path is too long"):
        expand_repositories(f"{tmp_path}/{'x' * 5000}")
