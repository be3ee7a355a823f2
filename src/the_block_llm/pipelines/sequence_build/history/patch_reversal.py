"""Undo patches: the text of a file before some of the commits that made it."""

import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Final

from the_block_llm.pipelines.sequence_build.history.line_normalization import normalize_line

_HUNK: Final = re.compile(r"^@@ -\d+(?:,\d+)? \+(?P<start>\d+)(?:,\d+)? @@", re.MULTILINE)
_NO_NEWLINE: Final = "\\"


@dataclass(frozen=True)
class _Hunk:
    start: int
    """Number of its first line after the commit, from 1."""
    before: Sequence[str]
    after: Sequence[str]


def revert_patches(text: str, patches: Sequence[str], added_lines: Set[str]) -> str:
    r"""Return a text without what patches added to it.

    Hunks are undone from the last to the first. One that does not apply, since later commits
    changed the same lines, is left; whatever of ``added_lines`` remains then is deleted, so none
    of them is in the result in any case.

    Args:
        text: The text after the patches, and possibly after other changes in between.
        patches: Hunks of each patch, in the order of the commits.
        added_lines: Normalized lines that must not remain.

    >>> revert_patches("a = 1\nb = 2\n", ["@@ -1 +1,2 @@\n a = 1\n+b = 2\n"], frozenset())
    'a = 1\n'
    """
    lines = text.split("\n")
    for patch in reversed(patches):
        for hunk in reversed(list(_parse_hunks(patch))):
            position = _find(lines, hunk)
            if position is not None:
                lines[position : position + len(hunk.after)] = hunk.before
    return "\n".join(line for line in lines if normalize_line(line) not in added_lines)


def split_patch(patch: str) -> tuple[list[str], list[str]]:
    """Return the lines that a patch adds, and those that were there before, without their sign."""
    added: list[str] = []
    earlier: list[str] = []
    for line in patch.split("\n"):
        if line.startswith("+"):
            added.append(line[1:])
        elif line.startswith((" ", "-")):
            earlier.append(line[1:])
    return added, earlier


def _parse_hunks(patch: str) -> Iterable[_Hunk]:
    headers = list(_HUNK.finditer(patch))
    for index, header in enumerate(headers):
        end = headers[index + 1].start() if index + 1 < len(headers) else len(patch)
        _, *lines = patch[header.start() : end].removesuffix("\n").split("\n")
        lines = [line for line in lines if not line.startswith(_NO_NEWLINE)]
        yield _Hunk(
            int(header["start"]),
            [line[1:] for line in lines if not line.startswith("+")],
            [line[1:] for line in lines if not line.startswith("-")],
        )


def _find(lines: Sequence[str], hunk: _Hunk) -> int | None:
    """Return where the lines after the hunk are, the nearest place to where it says."""
    n_lines = len(hunk.after)
    stated = hunk.start - bool(n_lines)  # a hunk that leaves no line names the line before it
    if not n_lines:
        return min(stated, len(lines))
    places = (
        place
        for place, line in enumerate(lines)
        if line == hunk.after[0] and list(lines[place : place + n_lines]) == hunk.after
    )
    return min(places, key=lambda place: abs(place - stated), default=None)
