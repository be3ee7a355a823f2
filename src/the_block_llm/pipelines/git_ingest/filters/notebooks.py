r"""Reduces Jupyter notebooks to cells and text output, in files and in patches.

A notebook stays JSON, and every line keeps its number. Rendered as plain code it would read better,
but the lines of its patches would no longer be those of the file, by which training and held-out
text are kept apart, and a cited line could not be found in the repository.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

_KEY: Final = re.compile(r'^(?P<indent>\s*)"(?P<key>[^"\\]+)": (?P<value>.*?)(?P<comma>,?)\r?$')
_MIME_TYPE: Final = re.compile(r"[a-z]+/[\w.+-]+")
_TEXT_TYPES: Final = frozenset(("text/plain", "text/markdown", "text/latex"))
_OUTPUT_LISTS: Final = frozenset(("text", "traceback", *_TEXT_TYPES))
# An escape character, not a backslash that code holds.
_ANSI: Final = re.compile(r"((?<!\\)(?:\\\\)*)\\u001[bB]\[[0-9;?]*[A-Za-z]")
_WHOLE_ESCAPES: Final = re.compile(r"(?:[^\\]|\\u[0-9a-fA-F]{4}|\\[^u])*+")
_MAX_OUTPUT_LINES: Final = 40
_MAX_OUTPUT_CHARACTERS: Final = 1000
_MAX_COMPACT_LINES: Final = 4
"""A notebook of so few lines was written without line breaks."""


class _Member(NamedTuple):
    """A member of a JSON object that begins in a line."""

    key: str
    indent: str
    value: str
    comma: str


def is_notebook(path: str) -> bool:
    """Return whether a file is a Jupyter notebook."""
    return path.lower().endswith(".ipynb")


def reduce_notebook(text: str) -> str:
    r"""Return a notebook without pictures, HTML beside plain text, widgets and metadata.

    >>> print(reduce_notebook('{\n "metadata": {\n  "a": 1\n },\n "cells": []\n}'))
    {
     "metadata": {},
    <BLANKLINE>
    <BLANKLINE>
     "cells": []
    }
    """
    lines = text.split("\n")
    if len(lines) <= _MAX_COMPACT_LINES:
        lines = _indented(text).split("\n")
    return "\n".join(_reduce_lines(lines))


def reduce_notebook_patch(hunks: str) -> str:
    """Return the hunks of a notebook's patch, reduced likewise; the number of lines is kept."""
    lines = hunks.split("\n")
    result = list(lines)
    for start, end in _hunks(lines):
        for markers in (" -", " +"):
            indices = [i for i in range(start, end) if lines[i][:1] and lines[i][0] in markers]
            reduced = _reduce_lines([lines[i][1:] for i in indices])
            for index, content in zip(indices, reduced, strict=True):
                # A line of both sides may be seen as part of an output on one side only.
                if content != lines[index][1:]:
                    result[index] = lines[index][0] + content
    return "\n".join(result)


def _hunks(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    starts = [i for i, line in enumerate(lines) if line.startswith("@@")]
    yield from zip([i + 1 for i in starts], [*starts[1:], len(lines)], strict=True)


def _indented(text: str) -> str:
    """Return a notebook of one line as Jupyter would write it."""
    try:
        return json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    except ValueError:
        return text


def _reduce_lines(lines: Sequence[str]) -> list[str]:
    reduced = [_ANSI.sub(r"\1", line) for line in lines]
    index = 0
    in_outputs_until = -1
    while index < len(lines):
        member = _parse_member(reduced[index])
        if member is None:
            index += 1
            continue
        end = _end_of_value(reduced, index, member)
        if member.key == "outputs":
            in_outputs_until = end
        if member.key == "metadata" and member.value.startswith("{"):
            _replace(reduced, index, end, member, "{}")
        elif _is_dropped(reduced, index, member):
            n_bytes = len(member.value) + sum(map(len, reduced[index + 1 : end + 1]))
            size = f"{n_bytes / 1000:.0f} kB" if n_bytes >= 1000 else f"{n_bytes} B"
            _replace(reduced, index, end, member, f'"[{size} removed]"')
        elif index <= in_outputs_until and member.key in _OUTPUT_LISTS:
            _truncate_list(reduced, index + 1, end)
        else:
            end = index
        index = end + 1
    return reduced


def _parse_member(line: str) -> _Member | None:
    match = _KEY.match(line)
    if match is None:
        return None
    return _Member(match["key"], match["indent"], match["value"], match["comma"])


def _end_of_value(lines: Sequence[str], start: int, member: _Member) -> int:
    """Return the index of the last line of a member's value, as far as the lines go."""
    if member.value not in {"{", "["}:
        return start
    closing = "}" if member.value == "{" else "]"
    for index in range(start + 1, len(lines)):
        line = lines[index].rstrip("\r")
        if line.startswith(member.indent + closing):
            return index
        if line.strip() and not line.startswith(member.indent + " "):
            return index - 1
    return len(lines) - 1


def _is_dropped(lines: Sequence[str], start: int, member: _Member) -> bool:
    """Return whether a member is an output that is no text, or says the same as plain text."""
    if member.key == "text/html":
        return any(_key_at(line, member.indent) == "text/plain" for line in _siblings(lines, start))
    return _MIME_TYPE.fullmatch(member.key) is not None and member.key not in _TEXT_TYPES


def _siblings(lines: Sequence[str], start: int) -> Iterator[str]:
    """Yield the lines from ``start`` to the end of the object around it."""
    indent = len(lines[start]) - len(lines[start].lstrip())
    for line in lines[start:]:
        if line.strip() and len(line) - len(line.lstrip()) < indent:
            return
        yield line


def _key_at(line: str, indent: str) -> str | None:
    member = _parse_member(line)
    return member.key if member is not None and member.indent == indent else None


def _replace(lines: list[str], start: int, end: int, member: _Member, value: str) -> None:
    comma = member.comma
    if end > start:
        comma = "," if lines[end].rstrip("\r").endswith(",") else ""
        lines[start + 1 : end + 1] = [""] * (end - start)
    lines[start] = f'{member.indent}"{member.key}": {value}{comma}'


def _truncate_list(lines: list[str], start: int, end: int) -> None:
    """Bound a list of strings between its brackets, in lines and in characters of each line."""
    for index in range(start, end):
        line = lines[index]
        if len(line) > _MAX_OUTPUT_CHARACTERS:
            comma = "," if line.rstrip().endswith(",") else ""
            whole = _WHOLE_ESCAPES.match(line, 0, _MAX_OUTPUT_CHARACTERS)
            cut = "" if whole is None else whole[0]
            lines[index] = f'{cut} [{len(line) - len(cut)} characters removed]"{comma}'
    if end - start > _MAX_OUTPUT_LINES:
        last = start + _MAX_OUTPUT_LINES
        indent = lines[last][: len(lines[last]) - len(lines[last].lstrip())]
        n_removed = end - last
        lines[last] = f'{indent}"[{n_removed} lines removed]"'
        lines[last + 1 : end] = [""] * (n_removed - 1)
