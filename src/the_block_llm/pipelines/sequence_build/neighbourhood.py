"""Rows whose pieces belong together: of one folder where that costs no room, else of its parent."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from the_block_llm.pipelines.sequence_build.packing import best_fit

_FULL: Final = 0.99
_FULL_ENOUGH: Final = 0.97  # for a row that can be filled up with context
_PATH_IN_PATCH: Final = re.compile(r"^(?:\+\+\+ b/|created |deleted )(.+)$", re.MULTILINE)


def module_of(kind: str, source: str, segments: Sequence[Mapping[str, Any]]) -> str:
    """The folder that a document is about; of a commit, that of the first file it changed."""
    if kind != "commit":
        return _folder(source) if "/" in source else ""
    for segment in segments:
        if segment["train"] and (match := _PATH_IN_PATCH.search(segment["text"])):
            return _folder(match[1])
    return ""


def pack_by_module(
    lengths: Sequence[int], modules: Sequence[str], elastic: Sequence[bool], context_tokens: int
) -> list[list[int]]:
    """Pack folder by folder, from the deepest up; what does not fill a row goes to the parent.

    Args:
        lengths: Tokens in each piece.
        modules: Folder of each piece, "" for the top.
        elastic: Whether a piece can take up room that is left; see
            :func:`~the_block_llm.pipelines.sequence_build.pieces.fill_up`.
        context_tokens: Capacity of a row.

    Returns:
        Rows as :func:`~the_block_llm.pipelines.sequence_build.packing.best_fit` gives them.

    >>> pack_by_module([5, 4, 5, 6], ["a", "b", "a", "b"], [False] * 4, context_tokens=10)
    [[0, 2], [1, 3]]
    """
    waiting: dict[str, list[list[int]]] = defaultdict(list)
    for index, module in enumerate(modules):
        waiting[module].append([index])
    for folder in _with_parents(waiting):
        waiting.setdefault(folder, [])
    full: list[list[int]] = []
    for folder in sorted(waiting, key=lambda name: (-_depth(name), name)):
        if folder == "":
            continue
        for row in _packed(waiting[folder], lengths, context_tokens):
            wanted = _FULL_ENOUGH if any(elastic[index] for index in row) else _FULL
            is_full = sum(lengths[index] for index in row) >= wanted * context_tokens
            (full if is_full else waiting[_folder(folder)]).append(row)
    # At the top nothing is kept together any more, so that the rows get as full as they can.
    loose = [[index] for row in waiting.get("", []) for index in row]
    return sorted(sorted(row) for row in (*full, *_packed(loose, lengths, context_tokens)))


def _packed(
    groups: Sequence[Sequence[int]], lengths: Sequence[int], context_tokens: int
) -> list[list[int]]:
    sizes = [sum(lengths[index] for index in group) for group in groups]
    if sum(sizes) <= context_tokens:
        return [[index for group in groups for index in group]] if groups else []
    return [
        [index for at in row for index in groups[at]] for row in best_fit(sizes, context_tokens)
    ]


def _with_parents(folders: Mapping[str, object]) -> set[str]:
    found: set[str] = {""}
    for folder in folders:
        while folder not in found:
            found.add(folder)
            folder = _folder(folder)  # noqa: PLW2901 - climbs to the top
    return found


def _folder(path: str) -> str:
    parent = PurePosixPath(path).parent.as_posix()
    return "" if parent == "." else parent


def _depth(folder: str) -> int:
    return len(PurePosixPath(folder).parts)
