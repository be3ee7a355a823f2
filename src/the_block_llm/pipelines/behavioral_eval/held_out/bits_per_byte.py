"""Bits that each byte of held-out text costs a model: the fewer, the better it knows it.

The text was written after the cut-off, so no arm has seen it. Bytes do not depend on the
tokenizer, which lets different models be compared.
"""

import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress, groupby, pairwise
from typing import Any, Final

import torch
from transformers import PreTrainedTokenizerBase

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import StaleDataError, TooLittleDataError
from the_block_llm.models.collate import collate_rows
from the_block_llm.models.inference.likelihood import token_nll
from the_block_llm.pipelines.behavioral_eval.held_out.contamination import Familiar

# Questions are made by this project, in a form that tuned models are trained on; what counts
# is text that people wrote.
WRITTEN_BY_PEOPLE: Final = ("commit", "file")


@dataclass(frozen=True)
class Source:
    """Where a held-out document comes from."""

    kind: str
    source: str
    """Path or sha: pieces of one source stand or fall together."""
    familiar: float = 0.0
    """Share of its lines that training documents hold as well."""


@dataclass(frozen=True)
class PieceCost:
    """What one piece of a document cost."""

    row: int
    """Number of the row it stands in."""
    item_id: str
    document_id: str
    bits: float
    n_bytes: int


def choose_rows(
    held_out: ParquetTable, documents: ParquetTable, n_rows: int, seed: int
) -> list[tuple[int, dict[str, Any]]]:
    """Draw rows, one for each commit or file before a second for any.

    What people wrote comes first: more of its sources are more evidence, and a few rows drawn
    blindly may all be from one. The same seed draws the same rows.

    Returns:
        Pairs of row number and row, in order.

    Raises:
        TooLittleDataError: The table is empty.
    """
    total = held_out.num_rows
    if total == 0:
        raise TooLittleDataError(
            "No held-out text: nothing was committed after the cut-off. Set "
            "sequence_build.cutoff to an earlier commit and run `kedro run` again."
        )
    source_of = {
        row["document_id"]: row["source"]
        for row in documents.rows(["document_id", "kind", "source", "split"])
        if row["split"] == "held_out" and row["kind"] in WRITTEN_BY_PEOPLE
    }
    rows_of: dict[str, list[int]] = {}
    for number, row in enumerate(held_out.rows(["document_ids"])):
        for document_id in dict.fromkeys(row["document_ids"]):
            if document_id in source_of:
                rows_of.setdefault(source_of[document_id], []).append(number)
    wanted = _one_each(list(rows_of.values()), total, n_rows, random.Random(seed))  # noqa: S311
    return [(number, row) for number, row in enumerate(held_out.rows()) if number in wanted]


def _one_each(
    groups: list[list[int]], total: int, n_rows: int, source: random.Random
) -> frozenset[int]:
    """Take a number from each group in turn, in random order, then any that are left."""
    source.shuffle(groups)
    for group in groups:
        source.shuffle(group)
    rest = list(range(total))
    source.shuffle(rest)
    longest = max(map(len, groups), default=0)
    turns = [group[turn] for turn in range(longest) for group in groups if turn < len(group)]
    return frozenset(list(dict.fromkeys([*turns, *rest]))[:n_rows])


def held_out_sources(
    documents: ParquetTable, rows: Sequence[tuple[int, Mapping[str, Any]]], familiar: Familiar
) -> dict[str, Source]:
    """By document id, where each document in ``rows`` comes from, and how familiar it is.

    Raises:
        StaleDataError: A row names a document that the table does not hold.
    """
    wanted = {document_id for _, row in rows for document_id in row["document_ids"]}
    found = {
        row["document_id"]: Source(
            kind=row["kind"],
            source=row["source"],
            familiar=familiar.by_document.get(row["document_id"], 0.0),
        )
        for row in documents.rows(["document_id", "kind", "source", "split"])
        if row["split"] == "held_out" and row["document_id"] in wanted
    }
    if wanted - set(found):
        raise StaleDataError(
            f"The held-out rows name the document {min(wanted - set(found))}, which the "
            "documents table does not hold. Run `kedro run --pipeline=sequence_build` again."
        )
    return found


def without_tokens(row: Mapping[str, Any], ids: Collection[int]) -> dict[str, Any]:
    """The row as a model reads it that does not have these tokens; they stand for no text.

    >>> row = {"input_ids": [7, 1, 2], "labels_mask": [0, 1, 1], "segment_lengths": [2, 1]}
    >>> without_tokens(row, {7})
    {'input_ids': [1, 2], 'labels_mask': [1, 1], 'segment_lengths': [1, 1]}
    """
    kept = [id_ not in ids for id_ in row["input_ids"]]
    ends = list(accumulate(row["segment_lengths"], initial=0))
    return {
        **row,
        "input_ids": list(compress(row["input_ids"], kept)),
        "labels_mask": list(compress(row["labels_mask"], kept)),
        "segment_lengths": [sum(kept[start:end]) for start, end in pairwise(ends)],
    }


def batches_of_rows(
    rows: Sequence[tuple[int, dict[str, Any]]], most_tokens: int
) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Put rows together up to ``most_tokens``, padded to the longest; at least one."""
    batch: list[tuple[int, dict[str, Any]]] = []
    for numbered in rows:
        width = max(len(row["input_ids"]) for _, row in [*batch, numbered])
        if batch and width * (len(batch) + 1) > most_tokens:
            yield batch
            batch = []
        batch.append(numbered)
    if batch:
        yield batch


def measure_rows(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[tuple[int, Mapping[str, Any]]],
) -> Iterator[PieceCost]:
    """Measure every piece in a micro-batch of rows; pieces without a target are left out."""
    batch = collate_rows([row for _, row in rows], int(tokenizer.pad_token_id))
    nats = token_nll(model, batch)
    specials = torch.tensor(_special_ids(tokenizer))
    # An end-of-document mark is learned but has no bytes, so it costs nothing here.
    counted = (batch["labels"] >= 0) & ~torch.isin(batch["labels"], specials)
    for index, (number, row) in enumerate(rows):
        start = 0
        for place, (length, document_id) in enumerate(
            zip(row["segment_lengths"], row["document_ids"], strict=True)
        ):
            span = slice(start, start + length)
            start += length
            n_bytes = _bytes_of(tokenizer, batch["input_ids"][index, span], counted[index, span])
            if n_bytes == 0:
                continue
            yield PieceCost(
                row=number,
                item_id=f"{document_id}@{number}.{place}",
                document_id=document_id,
                bits=float(nats[index, span][counted[index, span]].sum()) / math.log(2),
                n_bytes=n_bytes,
            )


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """All marks, also those that have no role such as end of text in the tokenizer."""
    marks = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    return sorted(marks | set(tokenizer.all_special_ids))


def _bytes_of(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor, counted: torch.Tensor) -> int:
    """UTF-8 length of the counted tokens, decoded run by run."""
    runs = groupby(zip(ids.tolist(), counted.tolist(), strict=True), key=lambda pair: pair[1])
    return sum(
        len(tokenizer.decode([id_ for id_, _ in run], clean_up_tokenization_spaces=False).encode())
        for is_counted, run in runs
        if is_counted
    )
