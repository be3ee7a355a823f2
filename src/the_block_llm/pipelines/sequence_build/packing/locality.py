"""Locality packing: chunks of one folder share rows where this wastes no tokens."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from the_block_llm.pipelines.sequence_build.packing.best_fit import best_fit

_FULL: Final = 0.99
_FULL_IF_EXTENSIBLE: Final = 0.97  # for a row whose free tokens can be filled with context
_PATH_IN_PATCH: Final = re.compile(r"^(?:\+\+\+ b/|created |deleted )(.+)$", re.MULTILINE)


class _Group(NamedTuple):
    """Chunks that stay together; its size is stored, so no level of folders sums it again."""

    chunks: list[int]
    n_tokens: int
    is_extensible: bool


def folder_of(kind: str, source: str, segments: Sequence[Mapping[str, Any]]) -> str:
    """Return the folder that a document is about; of a commit, that of its first changed file."""
    if kind != "commit":
        return _parent(source) if "/" in source else ""
    for segment in segments:
        if segment["train"] and (match := _PATH_IN_PATCH.search(segment["text"])):
            return _parent(match[1])
    return ""


def pack_by_locality(
    lengths: Sequence[int], folders: Sequence[str], extensible: Sequence[bool], context_tokens: int
) -> list[list[int]]:
    """Pack folder by folder, deepest first; what does not fill a row moves to the parent folder.

    Args:
        lengths: Tokens in each chunk.
        folders: Folder of each chunk's document, "" for the root.
        extensible: Whether each chunk can be extended into free tokens, see
            :func:`~the_block_llm.pipelines.sequence_build.packing.chunking.extend_chunks`.
        context_tokens: Capacity of a row.

    Returns:
        Rows as :func:`best_fit` returns them.

    >>> pack_by_locality([5, 4, 5, 6], ["a", "b", "a", "b"], [False] * 4, context_tokens=10)
    [[0, 2], [1, 3]]
    """
    pending: dict[str, list[_Group]] = defaultdict(list)
    for index, folder in enumerate(folders):
        pending[folder].append(_Group([index], lengths[index], extensible[index]))
    for folder in _with_ancestors(pending):
        pending.setdefault(folder, [])
    rows: list[list[int]] = []
    for folder in sorted(pending, key=lambda name: (-_depth(name), name)):
        if folder == "":
            continue
        for group in _pack(pending[folder], context_tokens):
            threshold = _FULL_IF_EXTENSIBLE if group.is_extensible else _FULL
            if group.n_tokens >= threshold * context_tokens:
                rows.append(group.chunks)
            else:
                pending[_parent(folder)].append(group)
    # At the root, groups are split up again, so that rows get as full as possible.
    singles = [
        _Group([index], lengths[index], extensible[index])
        for group in pending.get("", [])
        for index in group.chunks
    ]
    rows += [group.chunks for group in _pack(singles, context_tokens)]
    return sorted(sorted(row) for row in rows)


def _pack(groups: Sequence[_Group], context_tokens: int) -> list[_Group]:
    lengths = [group.n_tokens for group in groups]
    if sum(lengths) <= context_tokens:
        return [_merge(groups)] if groups else []
    return [_merge([groups[index] for index in row]) for row in best_fit(lengths, context_tokens)]


def _merge(groups: Sequence[_Group]) -> _Group:
    if len(groups) == 1:
        return groups[0]
    return _Group(
        [index for group in groups for index in group.chunks],
        sum(group.n_tokens for group in groups),
        any(group.is_extensible for group in groups),
    )


def _with_ancestors(folders: Mapping[str, object]) -> set[str]:
    found: set[str] = {""}
    for folder in folders:
        while folder not in found:
            found.add(folder)
            folder = _parent(folder)  # noqa: PLW2901 - climbs to the root
    return found


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _depth(folder: str) -> int:
    return folder.count("/") + 1 if folder else 0
