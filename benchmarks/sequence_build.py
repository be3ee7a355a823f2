"""Benchmark sequence_build: speed against the bare tokenizer, fill against other ways to pack.

Usage: python benchmarks/sequence_build.py [--profile NAME] [--megabytes 30] [--repeats 5]
                                           [--context 1024] [--corpus FOLDER]

Speed is a ratio of processor time on the same cores. The two alternate every two megabytes, so
load from other programs affects both; each repeat starts with empty tokenizer caches. TRL's packing
is compared if trl is installed.
"""

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chosen_profile import chosen_profile
from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.models.base.sources import load_tokenizer
from the_block_llm.pipelines.sequence_build.document import RenderedDocument, Segment
from the_block_llm.pipelines.sequence_build.documents.files import file_header
from the_block_llm.pipelines.sequence_build.packing.rows import pack_window
from the_block_llm.pipelines.sequence_build.packing.windows import plan_windows
from the_block_llm.pipelines.sequence_build.params import RowShape
from the_block_llm.pipelines.sequence_build.tokenization.document_table import document_batches
from the_block_llm.pipelines.sequence_build.tokenization.document_tokenizer import DocumentTokenizer
from the_block_llm.schemas import DOCUMENTS, ROWS

TARGET_SPEED = 0.8
TARGET_FILL_PERCENT = 99.0
_BATCH_BYTES = 2_000_000


def main() -> None:
    arguments = _arguments()
    profile = chosen_profile(arguments.profile)
    docs = _read_documents(Path(arguments.corpus), arguments.megabytes * 1_000_000)
    n_bytes = sum(len(s.text.encode()) for doc in docs for s in doc.segments)
    shape = RowShape(arguments.context, arguments.context // 4)
    print(f"{len(docs)} documents, {n_bytes / 1e6:.1f} MB, rows of {shape.context_tokens} tokens")
    tokenizer = DocumentTokenizer(load_tokenizer(profile), profile)
    bare_tokenizer = load_tokenizer(profile).backend_tokenizer
    bare_tokenizer.encode_special_tokens = True  # the same setting for both
    bare_s, ours_s = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.repeats):
            times = _time_alternating(bare_tokenizer, tokenizer, docs, shape, Path(folder))
            bare_s.append(times[0])
            ours_s.append(times[1])
        _build(tokenizer, docs, shape, Path(folder))
        documents = ParquetTable(Path(folder) / "documents")
        ratios = [bare / ours for bare, ours in zip(bare_s, ours_s, strict=True)]
        _print_speed(bare_s, ours_s, ratios, n_bytes)
        fill = _print_fill(documents, ParquetTable(Path(folder) / "rows"), shape)
    speed = statistics.median(ratios)
    met = speed >= TARGET_SPEED and fill >= TARGET_FILL_PERCENT
    print(f"\nSpeed {speed:.2f} of the bare tokenizer (target {TARGET_SPEED}), fill {fill:.2f} % "
          f"(target {TARGET_FILL_PERCENT}): {'met' if met else 'NOT met'}")  # fmt: skip
    sys.exit(0 if met else 1)


def _print_speed(
    bare_s: Sequence[float], ours_s: Sequence[float], ratios: Sequence[float], n_bytes: int
) -> None:
    print(f"\n{'':34}{'CPU s':>10}{'MB/s':>8}{'ratio':>8}{'(min–max)':>16}")
    for name, times in (("encode_batch_fast alone", bare_s), ("documents and packed rows", ours_s)):
        median_s = statistics.median(times)
        print(f"{name:34}{median_s:10.2f}{n_bytes / 1e6 / median_s:8.2f}", end="")
        spread = f"({min(ratios):.2f}–{max(ratios):.2f})"
        print(f"{statistics.median(ratios):8.2f}{spread:>16}" if times is ours_s else "")


def _print_fill(documents: ParquetTable, rows: ParquetTable, shape: RowShape) -> float:
    lengths = [row["n_tokens"] for row in documents.rows(["n_tokens"])]
    row_tokens = 0
    split: set[str] = set()
    seen: set[str] = set()
    for row in rows.rows(["n_tokens", "document_ids"]):
        row_tokens += row["n_tokens"]
        split |= seen.intersection(row["document_ids"])
        seen.update(row["document_ids"])
    context_tokens = row_tokens - sum(lengths)
    fill = 100 * row_tokens / (rows.num_rows * shape.context_tokens)
    print(f"\n{'':34}{'rows':>8}{'fill %':>8}{'lost':>10}{'twice':>10}{'context':>10}{'split':>6}")
    _print_row("ours", rows.num_rows, fill, 0, 0, context_tokens, len(split))
    _print_row("concatenate and split", *_concatenated(lengths, shape.context_tokens, 0))
    overlapped = _concatenated(lengths, shape.context_tokens, shape.overlap_tokens)
    _print_row("concatenate, split, 25 % overlap", *overlapped)
    _print_row("truncate documents, no packing", *_truncated(lengths, shape.context_tokens))
    if importlib.util.find_spec("trl") is None:
        print("TRL: not installed")
    else:
        for strategy in ("bfd", "bfd_split", "wrapped"):
            name = f"TRL, packing_strategy={strategy}"
            _print_row(name, *_trl(lengths, shape.context_tokens, strategy))
    print(
        "lost, twice: tokens never or twice trained · context: repeated tokens · split: documents"
    )
    return fill


def _print_row(
    name: str, n_rows: int, fill: float, lost: int, twice: int, context: int, split: int
) -> None:
    print(f"{name:34}{n_rows:8}{fill:8.2f}{lost:10}{twice:10}{context:10}{split:6}")


def _concatenated(
    lengths: Sequence[int], context: int, overlap: int
) -> tuple[int, float, int, int, int, int]:
    total, step = sum(lengths), context - overlap
    n_rows = max(0, (total - context) // step + 1)
    covered = context + (n_rows - 1) * step
    starts = np.cumsum([0, *lengths[:-1]])
    ends = np.cumsum(lengths)
    cuts = np.arange(1, n_rows) * step
    inside = np.searchsorted(cuts, ends) - np.searchsorted(cuts, starts, side="right") > 0
    return n_rows, 100.0, total - covered, (n_rows - 1) * overlap, 0, int(inside.sum())


def _truncated(lengths: Sequence[int], context: int) -> tuple[int, float, int, int, int, int]:
    kept = sum(min(length, context) for length in lengths)
    n_truncated = sum(length > context for length in lengths)
    fill = 100 * kept / (context * len(lengths))
    return len(lengths), fill, sum(lengths) - kept, 0, 0, n_truncated


def _trl(
    lengths: Sequence[int], context: int, strategy: str
) -> tuple[int, float, int, int, int, int]:
    pack_dataset = importlib.import_module("trl.data_utils").pack_dataset
    Dataset = importlib.import_module("datasets").Dataset  # noqa: N806
    # Each token is the number of its document, so tokens can be counted after packing.
    data: Any = Dataset.from_dict({"input_ids": [[n] * length for n, length in enumerate(lengths)]})
    packed = pack_dataset(data, seq_length=context, strategy=strategy)
    rows = [np.asarray(row, np.int64) for row in packed["input_ids"]]
    kept = np.bincount(np.concatenate(rows), minlength=len(lengths))
    n_rows_of = np.bincount(
        np.concatenate([np.unique(row) for row in rows]), minlength=len(lengths)
    )
    n_split = int(((n_rows_of > 1) | (kept < lengths)).sum())
    lost = int(np.maximum(0, np.array(lengths) - kept).sum())
    twice = int(np.maximum(0, kept - np.array(lengths)).sum())
    return len(rows), 100 * int(kept.sum()) / (context * len(rows)), lost, twice, 0, n_split


def _time_alternating(
    bare: Any,
    tokenizer: DocumentTokenizer,
    docs: list[RenderedDocument],
    shape: RowShape,
    folder: Path,
) -> tuple[float, float]:
    """Return the seconds of the bare tokenizer, and ours, over all documents."""
    bare.model._clear_cache()
    tokenizer.backend.model._clear_cache()
    bare_s = ours_s = 0.0
    for number, batch in enumerate(_batches(docs)):
        ours_first = number % 2
        if ours_first:
            ours_s += _cpu_s(partial(_build, tokenizer, batch, shape, folder))
        bare_s += _cpu_s(partial(_encode, bare, batch))
        if not ours_first:
            ours_s += _cpu_s(partial(_build, tokenizer, batch, shape, folder))
    return bare_s, ours_s


def _batches(docs: list[RenderedDocument]) -> Iterator[list[RenderedDocument]]:
    batch: list[RenderedDocument] = []
    n_bytes = 0
    for doc in docs:
        batch.append(doc)
        n_bytes += sum(len(segment.text) for segment in doc.segments)
        if n_bytes >= _BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


def _encode(backend: Any, docs: list[RenderedDocument]) -> None:
    texts = [segment.text for doc in docs for segment in doc.segments]
    backend.encode_batch_fast(texts, add_special_tokens=False)


def _build(
    tokenizer: DocumentTokenizer,
    docs: list[RenderedDocument],
    shape: RowShape,
    folder: Path,
) -> None:
    documents = save_table(
        folder / "documents",
        DOCUMENTS,
        document_batches(docs, tokenizer, shape.context_tokens),
    )
    packed = (
        batch
        for window in plan_windows(documents, "train", shape)
        for batch in pack_window(documents, window, shape, tokenizer.byte_lengths)
    )
    save_table(folder / "rows", ROWS, packed)


def _cpu_s(work: Any) -> float:
    # Processor time, so load from other programs does not count.
    started = time.process_time()
    work()
    return time.process_time() - started


def _read_documents(corpus: Path, max_bytes: int) -> list[RenderedDocument]:
    docs: list[RenderedDocument] = []
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for path in sorted(corpus.rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if not text or len(text) > 1_000_000:
            continue
        name = path.relative_to(corpus).as_posix()
        segments = (file_header(name), Segment(text, train=True))
        document = RenderedDocument(f"file/{name}", "file", "train", name, at, segments)
        docs.append(replace(document, is_checked=True))
        max_bytes -= len(text)
        if max_bytes <= 0:
            break
    return docs


def _arguments() -> argparse.Namespace:
    installed = Path(np.__file__).parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="smollm2-135m", help="a profile, or a folder")
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--corpus", default=installed, help="a folder with Python files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
