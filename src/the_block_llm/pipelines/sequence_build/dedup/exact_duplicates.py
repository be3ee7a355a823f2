"""Documents that say, word for word, what an earlier one of their side says."""

from collections.abc import Sequence, Set
from typing import Final

import numpy as np
import numpy.typing as npt

from the_block_llm.datasets.object_store import StorageLocation
from the_block_llm.pipelines.sequence_build.dedup.leak_scan import batches
from the_block_llm.pipelines.sequence_build.dedup.signatures import sides_of
from the_block_llm.schemas import SPLITS, Split

_GONE: Final = len(SPLITS)  # the side of what is not there any more


def said_again(parts: Sequence[StorageLocation], leaks: Set[str]) -> dict[Split, dict[str, str]]:
    """Find them, nine bytes of memory a document.

    Args:
        parts: What all documents say, of the schema ``WORDED``.
        leaks: Ids of documents that had to go; what they say counts as not said.

    Returns:
        By side the ids, in order, each with the id of the first that says the same.
    """
    wholes, sides = [np.empty(0, np.int64)], [np.empty(0, np.uint8)]
    for batch in batches(parts, ["document_id", "split", "whole"]):
        wholes.append(batch["whole"].to_numpy().copy())
        own = sides_of(batch["split"])
        for number in np.flatnonzero(own):
            if batch["document_id"][number].as_py() in leaks:
                own[number] = _GONE
        sides.append(own)
    whole, side = np.concatenate(wholes), np.concatenate(sides)
    pairs = [_again(whole, np.flatnonzero(side == number)) for number in range(_GONE)]
    names = _names(parts, np.concatenate([both for pair in pairs for both in pair]))
    return {
        split: {
            names[again]: names[first]
            for again, first in zip(*(numbers.tolist() for numbers in pair), strict=True)
        }
        for split, pair in zip(SPLITS, pairs, strict=True)
    }


def _again(
    whole: npt.NDArray[np.int64], own: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Numbers of documents that repeat one, and of the first that says the same."""
    order = own[np.argsort(whole[own], kind="stable")]
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = whole[order[1:]] != whole[order[:-1]]
    first = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
    again, first = order[~is_first], first[~is_first]
    ordered_map = np.argsort(again)
    return again[ordered_map], first[ordered_map]


def _names(parts: Sequence[StorageLocation], numbers: npt.NDArray[np.int64]) -> dict[int, str]:
    wanted = np.unique(numbers)
    found: dict[int, str] = {}
    begin = 0
    for batch in batches(parts, ["document_id"]) if len(wanted) else ():
        first, last = np.searchsorted(wanted, (begin, begin + len(batch)))
        for number in wanted[first:last].tolist():
            found[number] = batch["document_id"][number - begin].as_py()
        begin += len(batch)
    return found
