"""Peak memory of sequence_build over a generated corpus, from drafts to packed rows.

Usage: python benchmarks/sequence_build_memory.py MEGABYTES [--times 1] [--profile NAME]
       python benchmarks/sequence_build_memory.py MEGABYTES --screening [--held-out 0.15]

Documents are made up on the way, so the corpus itself is never in memory. The peak is printed
every so often, which shows whether it grows with the text. With --times, the finished parts are
packed that many times over, as one table: packing is then seen at a size for which tokenising
would take hours. With --screening no token is made: a share of the documents is held out and
compared with all others, which is the part that holds something of every line that is held back.
"""

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from chosen_profile import chosen_profile
from the_block_llm.datasets.cutoff import Cutoff
from the_block_llm.datasets.parts import save_parts
from the_block_llm.execution.jobs import Call
from the_block_llm.models.base_models import load_tokenizer
from the_block_llm.pipelines.sequence_build.comparing import note_words
from the_block_llm.pipelines.sequence_build.document_table import document_batches
from the_block_llm.pipelines.sequence_build.drafts import Draft, Segment
from the_block_llm.pipelines.sequence_build.file_documents import head
from the_block_llm.pipelines.sequence_build.history import History
from the_block_llm.pipelines.sequence_build.mixing import left_out_by_mix
from the_block_llm.pipelines.sequence_build.params import Mix, RowShape
from the_block_llm.pipelines.sequence_build.row_table import pack_split
from the_block_llm.pipelines.sequence_build.screening import screen
from the_block_llm.pipelines.sequence_build.tokens import DocumentTokenizer
from the_block_llm.schemas import DOCUMENTS, ROWS, Split

_FILE_BYTES = 12_000
_WORDS = 20_000
_TOLD_EVERY_TOKENS = 100_000_000
_AT = datetime(2026, 1, 1, tzinfo=UTC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("megabytes", type=float)
    parser.add_argument("--profile", default="smollm2-135m", help="a profile, or a folder")
    parser.add_argument("--times", type=int, default=1, help="how often the text is packed")
    parser.add_argument("--screening", action="store_true", help="look for leaks instead")
    parser.add_argument("--held-out", type=float, default=0.15, help="share of the documents")
    arguments = parser.parse_args()
    if arguments.screening:
        _screen(arguments.megabytes, arguments.held_out)
        return
    profile = chosen_profile(arguments.profile)
    tokenizer = DocumentTokenizer(load_tokenizer(profile), profile)
    shape = RowShape(1024, 256)
    print(f"before: {_peak_gib():.2f} GiB")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        drafts = _drafts(arguments.megabytes * 1e6)
        made = document_batches(drafts, tokenizer, shape.context_tokens)
        documents = save_parts(Path(folder) / "documents", DOCUMENTS, _told(made, started))
        print(f"documents: {_peak_gib():.2f} GiB, {time.monotonic() - started:.0f} s")
        if arguments.times > 1:
            parts = documents.parts * arguments.times
            documents = save_parts(Path(folder) / "many", DOCUMENTS, parts)
        left_out = left_out_by_mix(documents, Mix(), shape.context_tokens)
        packed = pack_split(documents, "train", shape, tokenizer.byte_lengths, left_out)
        rows = save_parts(Path(folder) / "rows", ROWS, _told(packed, started))
        print(f"rows: {_peak_gib():.2f} GiB, {time.monotonic() - started:.0f} s, {rows.num_rows}")


def _screen(megabytes: float, held_out: float) -> None:
    seen = {"train": 0, "validation": 0, "held_out": 0}

    def drafts() -> Iterator[Draft]:
        rng = random.Random(1)
        for number, draft in enumerate(_drafts(megabytes * 1e6)):
            split: Split = "held_out" if rng.random() < held_out else "train"
            if number == 0:
                split = "validation"
            seen[split] += sum(segment.text.count("\n") for segment in draft.segments[1:])
            yield replace(draft, split=split)

    before, started = _peak_gib(), time.monotonic()
    history = History({}, {}, Cutoff("a", _AT, "b"))
    with tempfile.TemporaryDirectory() as folder:
        noted = [note_words(((history, draft) for draft in drafts()), Path(folder) / "words")]
        found = screen(noted, _run_here, 0.7, holds_out=True)
    print(f"{seen['train']:,} training lines, {seen['held_out']:,} held-out lines: "
          f"{before:.2f} GiB before, peak {_peak_gib():.2f} GiB, {len(found.leaks)} leaks, "
          f"{time.monotonic() - started:.0f} s")  # fmt: skip


def _run_here(jobs: Sequence[Call]) -> list[Any]:
    return [function(*arguments) for function, arguments in jobs]


def _told(batches: Iterable[pa.RecordBatch], started: float) -> Iterator[pa.RecordBatch]:
    """Hand batches on, and print the peak each time that many tokens have passed."""
    n_tokens, next_time = 0, _TOLD_EVERY_TOKENS
    for batch in batches:
        yield batch
        n_tokens += int(batch["n_tokens"].to_numpy().sum())
        if n_tokens >= next_time:
            seconds = time.monotonic() - started
            print(
                f"  {n_tokens / 1e6:6.0f} M tokens: {_peak_gib():.2f} GiB, {seconds:.0f} s",
                flush=True,
            )
            next_time += _TOLD_EVERY_TOKENS


def _drafts(most_bytes: float) -> Iterator[Draft]:
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu_", k=rng.randint(2, 9))) for _ in range(_WORDS)]
    n_bytes = number = 0
    while n_bytes < most_bytes:
        lines: list[str] = []
        size = 0
        while size < _FILE_BYTES:
            name, *rest = rng.choices(words, k=9)
            lines.append(f"def {name}(x):\n    return {' + '.join(rest)}\n\n")
            size += len(lines[-1])
        path = f"pkg{number % 997}/part{number}.py"
        segments = (head(path), Segment("".join(lines), train=True))
        yield Draft(f"file/{path}", "file", "train", path, _AT, segments)
        n_bytes += size
        number += 1


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


if __name__ == "__main__":
    main()
