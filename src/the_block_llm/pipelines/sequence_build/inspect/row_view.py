"""Rows made readable: which tokens are learned, which are shown, where segments begin."""

from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import ParameterError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_LEARNED: Final = "green"
_SHOWN: Final = "dim"


def show_row(rows: ParquetTable, number: int, tokenizer: "PreTrainedTokenizerFast") -> Text:
    """Decode one row: learned tokens in colour, shown ones dim, a rule before each segment.

    Args:
        rows: The table ``train``, ``validation`` or ``held_out``.
        number: Of the row, from 0.
        tokenizer: The one the rows were made with.

    Raises:
        ParameterError: There is no such row.
    """
    row = _row(rows, number)
    text = Text()
    for segment in range(len(row["document_ids"])):
        text.append_text(show_segment(row, segment, tokenizer))
    return text


def show_segment(
    row: Mapping[str, Any], segment: int, tokenizer: "PreTrainedTokenizerFast"
) -> Text:
    """Decode one segment of a row, as :func:`show_row` does with all of them."""
    start = sum(row["segment_lengths"][:segment])
    end = start + row["segment_lengths"][segment]
    ids, learned = row["input_ids"][start:end], row["labels_mask"][start:end]
    text = Text()
    document_id = row["document_ids"][segment]
    text.append(f"── {document_id} · {len(ids)} tokens, {sum(learned)} learned ──\n", "bold")
    for is_learned, run in groupby(zip(ids, learned, strict=True), key=lambda pair: pair[1]):
        decoded = tokenizer.decode([id_ for id_, _ in run], clean_up_tokenization_spaces=False)
        text.append(decoded, _LEARNED if is_learned else _SHOWN)
    text.append("\n")
    return text


def marked_lines(text: Text) -> str:
    """A row without colours: lines that hold something learned begin with a mark."""
    learned = [(span.start, span.end) for span in text.spans if span.style == _LEARNED]
    lines: list[str] = []
    start = 0
    for line in text.plain.split("\n"):
        end = start + len(line) + 1
        is_learned = any(begin < end and start < stop for begin, stop in learned)
        lines.append(f"{'▸' if is_learned else ' '} {line}".rstrip())
        start = end
    return "\n".join(lines).rstrip("\n")


def _row(rows: ParquetTable, number: int) -> dict[str, Any]:
    if not 0 <= number < rows.num_rows:
        raise ParameterError(
            f"There is no row {number} in {rows.folder}: it has rows 0 to {rows.num_rows - 1}."
        )
    left = number
    for batch in rows.batches(batch_rows=256):
        if left < batch.num_rows:
            found: dict[str, Any] = batch.slice(left, 1).to_pylist()[0]
            return found
        left -= batch.num_rows
    raise AssertionError("num_rows counts the rows of all batches")
