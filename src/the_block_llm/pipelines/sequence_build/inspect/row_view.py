"""Decoded view of packed rows: segments, target tokens and context tokens."""

from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import ParameterError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_TARGET_STYLE: Final = "green"
_CONTEXT_STYLE: Final = "dim"


def render_row(rows: ParquetTable, number: int, tokenizer: "PreTrainedTokenizerFast") -> Text:
    """Decode one row: target tokens green, context tokens dim, a rule before each segment.

    Args:
        rows: The table ``train_rows``, ``validation_rows`` or ``held_out_rows``.
        number: Index of the row, from 0.
        tokenizer: The tokenizer of the rows.

    Raises:
        ParameterError: There is no such row.
    """
    row = _row(rows, number)
    text = Text()
    for segment in range(len(row["document_ids"])):
        text.append_text(render_segment(row, segment, tokenizer))
    return text


def render_segment(
    row: Mapping[str, Any], segment: int, tokenizer: "PreTrainedTokenizerFast"
) -> Text:
    """Decode one segment of a row as :func:`render_row` does."""
    start = sum(row["segment_lengths"][:segment])
    end = start + row["segment_lengths"][segment]
    ids, is_target = row["input_ids"][start:end], row["labels_mask"][start:end]
    text = Text()
    document_id = row["document_ids"][segment]
    text.append(f"── {document_id} · {len(ids)} tokens, {sum(is_target)} learned ──\n", "bold")
    for target, run in groupby(zip(ids, is_target, strict=True), key=lambda pair: pair[1]):
        decoded = tokenizer.decode([id_ for id_, _ in run], clean_up_tokenization_spaces=False)
        text.append(decoded, _TARGET_STYLE if target else _CONTEXT_STYLE)
    text.append("\n")
    return text


def plain_text(text: Text) -> str:
    """Return the text without colors; lines with target tokens start with ``▸``."""
    targets = [(span.start, span.end) for span in text.spans if span.style == _TARGET_STYLE]
    lines: list[str] = []
    start = 0
    for line in text.plain.split("\n"):
        end = start + len(line) + 1
        has_target = any(begin < end and start < stop for begin, stop in targets)
        lines.append(f"{'▸' if has_target else ' '} {line}".rstrip())
        start = end
    return "\n".join(lines).rstrip("\n")


def _row(rows: ParquetTable, number: int) -> dict[str, Any]:
    if not 0 <= number < rows.num_rows:
        raise ParameterError(
            f"There is no row {number} in {rows.folder}, which has rows 0 to {rows.num_rows - 1}."
        )
    offset = number
    for batch in rows.batches(batch_rows=256):
        if offset < batch.num_rows:
            found: dict[str, Any] = batch.slice(offset, 1).to_pylist()[0]
            return found
        offset -= batch.num_rows
    raise AssertionError("num_rows exceeds the rows of all batches")
