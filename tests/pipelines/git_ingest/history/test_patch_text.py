"""Each side of a patch is decoded by the encoding of its file, or the patch is left out."""

import difflib
from pathlib import Path

import pytest
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.filters.texts import TEXTS
from tests.pipelines.git_ingest.ingesting import IngestResult, ingest

from the_block_llm.pipelines.git_ingest.filters.encoding_detection import find_encoding
from the_block_llm.pipelines.git_ingest.history.patch_text import (
    UNREAD,
    FileEncodings,
    decode_patch,
)

ENCODINGS = [
    (language, encoding)
    for language, (names, _) in TEXTS.items()
    for encoding in names
    if encoding not in {"hz", "iso2022_jp", "iso2022_kr"}
]


def diff(old: list[bytes], new: list[bytes]) -> bytes:
    """Return the hunks between the lines of two files."""
    lines = list(difflib.diff_bytes(difflib.unified_diff, old, new, lineterm=b""))[2:]
    return b"".join(line.rstrip(b"\n") + b"\n" for line in lines)


@pytest.mark.parametrize(("language", "encoding"), ENCODINGS)
@pytest.mark.parametrize("reads_files", [True, False])
def test_no_letter_of_a_patch_is_wrong(language: str, encoding: str, reads_files: bool) -> None:
    text = TEXTS[language][1]
    lines = text.splitlines(keepends=True)
    legacy, utf8 = ([line.encode(e) for line in lines] for e in (encoding, "utf-8"))
    mixed = [*legacy[:1], *utf8[1:]]
    one_changed = [*legacy[:-1], lines[-1].rstrip("\n").encode(encoding) + b" again\n"]
    allowed = {character for character in text if character > "\x7f"}
    for old, new in (
        ([], legacy), (legacy, []), (legacy, utf8), (utf8, legacy), (legacy, one_changed),
        (mixed, utf8), (legacy, mixed), (utf8, mixed), (mixed, legacy),
    ):  # fmt: skip
        hunks = diff(old, new)
        encodings = FileEncodings(UNREAD, UNREAD)
        if reads_files:
            encodings = FileEncodings(find_encoding(b"".join(old)), find_encoding(b"".join(new)))
        decoded = decode_patch(hunks, lambda encodings=encodings: encodings)
        if decoded is None:
            continue
        found = {character for character in decoded.text if character > "\x7f"}
        assert found <= allowed, decoded
        assert decoded.text.count("\n") == hunks.count(b"\n")


@pytest.mark.parametrize("word", ["naïve", "Jörg", "à", "Größe", "ñ"])
@pytest.mark.parametrize("encoding", ["latin-1", "cp850", "mac_roman"])
def test_a_conversion_to_utf_8_proves_old_and_new_lines(word: str, encoding: str) -> None:
    code = "x = 1  # {}\n"
    old, new = code.format(word).encode(encoding), code.format(word).encode()
    decoded = decode_patch(
        diff([old], [new]), lambda: FileEncodings(find_encoding(old), find_encoding(new))
    )
    assert decoded is not None
    assert decoded.text.splitlines()[1:] == [f"-x = 1  # {word}", f"+x = 1  # {word}"]
    assert decoded.encoding.endswith("/utf-8")


def patches(result: IngestResult) -> list[str | None]:
    return [patch for (patch,) in result.rows("file_changes", "patch")]


def test_a_file_that_is_converted_has_its_letters_in_old_and_new_lines(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    text = TEXTS["German"][1]
    repository.commit("Add", {"a.py": text.encode("latin-1")})
    repository.commit("Convert", {"a.py": text})
    result = ingest(repository.path, tmp_path / "out")
    converted = patches(result)[1]
    assert converted is not None
    assert "-Überprüfung der Größe" in converted
    assert "+Überprüfung der Größe" in converted
    assert result.rows("file_changes", "encoding") == [("cp1252",), ("cp1252/utf-8",)]


def test_a_line_with_little_evidence_is_decoded_as_the_rest_of_its_file(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    text = TEXTS["Russian"][1] * 2
    body = "".join(f"x{i} = {i}\n" for i in range(20))
    repository.commit("Add", {"a.py": (text + body + "# нет\n").encode("koi8-r")})
    repository.commit("Change", {"a.py": (text + body + "# да\n").encode("koi8-r")})
    result = ingest(repository.path, tmp_path / "out")
    changed = patches(result)[1]
    assert changed is not None
    assert changed.endswith("-# нет\n+# да\n")


def test_a_heading_that_git_cuts_in_a_character_costs_no_patch(tmp_path: Path) -> None:
    # git takes 80 bytes of the line above the hunk: "x", 26 characters and a byte of the next.
    repository = GitRepository(tmp_path / "project")
    heading = "x" + "日本語" * 20 + "\n"
    lines = [f"  line {i}\n" for i in range(20)]
    repository.commit("Add", {"a.txt": heading + "".join(lines)})
    repository.commit("Change", {"a.txt": heading + "".join([*lines[:10], "  new\n"])})
    result = ingest(repository.path, tmp_path / "out")
    changed = patches(result)[1]
    assert changed is not None
    header = changed.splitlines()[0]
    assert header.startswith("@@ -9,13 +9,4 @@ x日本語日本語")
    assert "\\x" not in header
    assert result.rows("file_changes", "encoding")[1] == ("utf-8",)


def test_messages_and_names_have_their_letters(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    message = TEXTS["Russian"][1].replace("\n", "\n\n", 1)
    for encoding, declared in (
        ("koi8-r", "KOI8-R"), ("cp1251", "ISO-8859-1"), ("cp1251", None), ("utf-8", "ISO-8859-1"),
    ):  # fmt: skip
        repository.commit(
            message.encode(encoding),
            {"a": f"{encoding} {declared}\n"},
            author=("Jörg".encode("latin-1") if declared == "ISO-8859-1" else "Ann", "j@x.org"),
            encoding=declared,
        )
    result = ingest(repository.path, tmp_path / "out", pseudonymise=False)
    subject, body = message.rstrip("\n").split("\n\n")
    assert result.rows("commits", "subject", "body") == [(subject, body)] * 4
    assert [author for (author,) in result.rows("commits", "author_id")] == [
        "Ann <j@x.org>", "Jörg <j@x.org>", "Ann <j@x.org>", "Jörg <j@x.org>",
    ]  # fmt: skip


def test_a_long_message_is_truncated_between_characters(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    for prefix in ("", "a", "ab"):
        repository.commit(f"Subject\n\n{prefix}{'語' * 200}", {"a": f"{prefix}\n"})
    result = ingest(repository.path, tmp_path / "out", max_message_bytes=256)
    for (body,), prefix in zip(result.rows("commits", "body"), ("", "a", "ab"), strict=True):
        assert body == f"{prefix}{'語' * ((256 - len(prefix)) // 3)}\n[...]"
