"""Exact duplicates: documents whose text equals that of an earlier one of the same split."""

from collections.abc import Sequence, Set
from typing import Final

import numpy as np
import numpy.typing as npt

from the_block_llm.datasets.object_store import StorageLocation
from the_block_llm.pipelines.sequence_build.dedup.leak_scan import read_batches
from the_block_llm.pipelines.sequence_build.dedup.minhash import split_indices
from the_block_llm.schemas import SPLITS, Split

_EXCLUDED: Final = len(SPLITS)  # in place of the split of a document that is removed as a leak


def find_exact_duplicates(
    parts: Sequence[StorageLocation], leaks: Set[str]
) -> dict[Split, dict[str, str]]:
    """Find duplicates by text hash, in nine bytes of memory per document.

    Args:
        parts: Parquet files of ``SIGNATURE_SCHEMA`` with all documents.
        leaks: Ids of documents that are removed; a copy of one of these is no duplicate.

    Returns:
        For each split the ids of its duplicates, in order, with the id of the first document
        that has the same text.
    """
    hashes, splits = [np.empty(0, np.int64)], [np.empty(0, np.uint8)]
    for batch in read_batches(parts, ["document_id", "split", "whole"]):
        hashes.append(batch["whole"].to_numpy().copy())
        batch_splits = split_indices(batch["split"])
        for row in np.flatnonzero(batch_splits):
            if batch["document_id"][row].as_py() in leaks:
                batch_splits[row] = _EXCLUDED
        splits.append(batch_splits)
    text_hashes, document_splits = np.concatenate(hashes), np.concatenate(splits)
    pairs = [
        _duplicates(text_hashes, np.flatnonzero(document_splits == split))
        for split in range(_EXCLUDED)
    ]
    ids = _document_ids(parts, np.concatenate([numbers for pair in pairs for numbers in pair]))
    return {
        split: {
            ids[duplicate]: ids[first]
            for duplicate, first in zip(*(numbers.tolist() for numbers in pair), strict=True)
        }
        for split, pair in zip(SPLITS, pairs, strict=True)
    }


def _duplicates(
    text_hashes: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the documents that repeat an earlier one of ``numbers``, and that earlier one."""
    order = numbers[np.argsort(text_hashes[numbers], kind="stable")]
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = text_hashes[order[1:]] != text_hashes[order[:-1]]
    first = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
    duplicates, originals = order[~is_first], first[~is_first]
    by_number = np.argsort(duplicates)
    return duplicates[by_number], originals[by_number]


def _document_ids(
    parts: Sequence[StorageLocation], numbers: npt.NDArray[np.int64]
) -> dict[int, str]:
    """Read the ids of the documents with these numbers."""
    wanted = np.unique(numbers)
    ids: dict[int, str] = {}
    start = 0
    for batch in read_batches(parts, ["document_id"]) if len(wanted) else ():
        first, last = np.searchsorted(wanted, (start, start + len(batch)))
        for number in wanted[first:last].tolist():
            ids[number] = batch["document_id"][number - start].as_py()
        start += len(batch)
    return ids
