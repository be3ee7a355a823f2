"""Rows whose pieces belong together: of one folder where that costs no room, else of its parent."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from the_block_llm.pipelines.sequence_build.packing.best_fit import best_fit

_FULL: Final = 0.99
_FULL_ENOUGH: Final = 0.97  # for a row that can be filled up with context
_PATH_IN_PATCH: Final = re.compile(r"^(?:\+\+\+ b/|created |deleted )(.+)$", re.MULTILINE)

_Group = tuple[list[int], int, bool]  # pieces, their tokens together, whether one is elastic


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
            :func:`~the_block_llm.pipelines.sequence_build.packing.chunking.fill_up`.
        context_tokens: Capacity of a row.

    Returns:
        Rows as :func:`best_fit` gives them.

    >>> pack_by_module([5, 4, 5, 6], ["a", "b", "a", "b"], [False] * 4, context_tokens=10)
    [[0, 2], [1, 3]]
    """
    # Groups carry their size and whether they can be filled up, so that neither is summed anew
    # on every level of folders.
    waiting: dict[str, list[_Group]] = defaultdict(list)
    for index, module in enumerate(modules):
        waiting[module].append(([index], lengths[index], elastic[index]))
    for folder in _with_parents(waiting):
        waiting.setdefault(folder, [])
    full: list[list[int]] = []
    for folder in sorted(waiting, key=lambda name: (-_depth(name), name)):
        if folder == "":
            continue
        for group in _packed(waiting[folder], context_tokens):
            row, size, is_elastic = group
            if size >= (_FULL_ENOUGH if is_elastic else _FULL) * context_tokens:
                full.append(row)
            else:
                waiting[_folder(folder)].append(group)
    # At the top nothing is kept together any more, so that the rows get as full as they can.
    loose = [
        ([index], lengths[index], elastic[index])
        for row, _, _ in waiting.get("", [])
        for index in row
    ]
    return sorted(
        sorted(row) for row in (*full, *(row for row, _, _ in _packed(loose, context_tokens)))
    )


def _packed(groups: Sequence[_Group], context_tokens: int) -> list[_Group]:
    sizes = [size for _, size, _ in groups]
    if sum(sizes) <= context_tokens:
        return [_merged(groups)] if groups else []
    return [_merged([groups[at] for at in row]) for row in best_fit(sizes, context_tokens)]


def _merged(groups: Sequence[_Group]) -> _Group:
    if len(groups) == 1:
        return groups[0]
    return (
        [index for row, _, _ in groups for index in row],
        sum(size for _, size, _ in groups),
        any(is_elastic for _, _, is_elastic in groups),
    )


def _with_parents(folders: Mapping[str, object]) -> set[str]:
    found: set[str] = {""}
    for folder in folders:
        while folder not in found:
            found.add(folder)
            folder = _folder(folder)  # noqa: PLW2901 - climbs to the top
    return found


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _depth(folder: str) -> int:
    return folder.count("/") + 1 if folder else 0
