"""The whole history: pieces that are at hand are reused, the others are read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from the_block_llm.memory import raise_gc_threshold, trim_heap
from the_block_llm.pipelines.git_ingest.git.rev_list import CommitOrder
from the_block_llm.pipelines.git_ingest.git.sandbox import PrivateView
from the_block_llm.pipelines.git_ingest.history.extract_shard import Readers, read_history_piece
from the_block_llm.pipelines.git_ingest.history.options import HistoryOptions
from the_block_llm.pipelines.git_ingest.sharding.counts import Tally
from the_block_llm.pipelines.git_ingest.sharding.shard_cache import PieceCache, digest_of
from the_block_llm.pipelines.git_ingest.sharding.shards import Share
from the_block_llm.pipelines.git_ingest.sharding.thread_pool import Stretch, in_stretches
from the_block_llm.progress import progress_bar

# Git keeps every commit that it has shown in memory, over a kilobyte of each.
_COMMITS_A_PROCESS: Final = 4096


@dataclass(frozen=True)
class History:
    """Where the finished pieces lie, oldest first, and what they add up to."""

    changes: list[Path]
    commits: list[Path]
    tally: Tally
    n_read: int
    """Commits that were read in this run; the rest was at hand."""
    attributes_left_out: int
    """Lines and files of ``.gitattributes`` that were passed over."""


def read_history(
    view: PrivateView,
    order: CommitOrder,
    options: HistoryOptions,
    cache: PieceCache,
    version: str,
    n_threads: int,
    share: Share | None = None,
) -> History:
    """Make sure that every piece of ``order`` is in ``cache``.

    Args:
        view: The repository.
        order: Commits to read.
        options: What decides the rows.
        cache: Where finished pieces are kept; others are removed at the end.
        version: Of code and tools; pieces made by another are not used.
        n_threads: How many pieces are read at a time, each with a git process of its own.
        share: Only these pieces; the others are left as they are.
    """
    pieces = list(order.pieces())
    if share is not None:
        pieces = list(share.pick(pieces))
    names = [digest_of(version, options, view.max_file_bytes, p.digest) for p in pieces]
    notes: list[dict[str, Any] | None] = [cache.notes(name) for name in names]
    gone = sorted({sha for n in notes if n is not None for sha in n["missing"]})
    came_back = view.present(gone).keys() if gone else ()
    if came_back:
        notes = [None if n and not came_back.isdisjoint(n["missing"]) else n for n in notes]
    todo = [i for i, note in enumerate(notes) if note is None]
    n_commits = sum(len(pieces[i]) for i in todo)

    def read(places: Stretch) -> Iterator[tuple[int, dict[str, Any]]]:
        readers = Readers(view)
        n_answered = 0
        try:
            for place in places:
                i, ahead = todo[place], places.peek()
                n_answered += len(pieces[i])
                is_worn = n_answered > _COMMITS_A_PROCESS
                then = () if ahead is None or is_worn else pieces[todo[ahead]].shas
                stem = cache.stem(names[i])
                yield i, read_history_piece(readers, pieces[i], options, stem, then)
                if is_worn:
                    readers.close_stream()
                    # Rows of all sizes leave holes behind, which this gives back.
                    trim_heap()
                    n_answered = 0
        finally:
            readers.close()

    n_listed = sum(len(piece) for piece in pieces)
    with raise_gc_threshold(), progress_bar("Reading history", n_listed) as bar:
        bar.advance(n_listed - n_commits)
        for i, told in in_stretches(len(todo), min(n_threads, max(1, len(todo))), read):
            notes[i] = told
            bar.advance(len(pieces[i]))
    if share is None:
        cache.sweep(names)
    tally = Tally()
    for note in notes:
        assert note is not None  # noqa: S101
        tally.add(note["tally"])
    return History(
        changes=[cache.folder / f"{name}.changes.parquet" for name in names],
        commits=[cache.folder / f"{name}.commits.arrow" for name in names],
        tally=tally,
        n_read=n_commits,
        attributes_left_out=options.attributes.n_left_out,
    )
