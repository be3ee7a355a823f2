"""How a batch of many short segments is chunked for the flash kernel."""

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from the_block_llm.models.layerwise.kernels.attention import Segments, flash_workspace_tokens


def _segments(lengths: list[int]) -> Segments:
    return Segments.from_lengths(lengths, torch.device("cpu"))


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=400))
def test_chunks_contain_every_segment_once_and_fit(lengths: list[int]) -> None:
    segments = _segments(lengths)

    chunks = segments.chunks

    bounds = [
        chunk.tokens.start + int(start) for chunk in chunks for start in chunk.cu_seqlens[:-1]
    ]
    assert (*bounds, sum(lengths)) == segments.bounds
    assert [b.tokens.start for b in chunks[1:]] == [a.tokens.stop for a in chunks[:-1]]
    for chunk in chunks:
        chunk_lengths = [b - a for a, b in pairwise(chunk.cu_seqlens.tolist())]
        assert chunk.max_seqlen == max(chunk_lengths)
        # 128 tokens of a float32 gradient take as much memory as 64 tokens in total.
        padded_tokens = sum(chunk_lengths) + 64 * len(chunk_lengths)
        assert padded_tokens <= flash_workspace_tokens(sum(lengths)) or len(chunk_lengths) == 1


def test_few_segments_are_one_chunk() -> None:
    assert len(_segments([65_536]).chunks) == 1
    # Eight rows of 1,024 with three documents each.
    assert len(_segments([300, 400, 324] * 8).chunks) == 1


def test_a_long_row_of_short_documents_is_split_into_few_chunks() -> None:
    chunks = _segments([46] * 1418).chunks

    assert [len(chunk.cu_seqlens) - 1 for chunk in chunks] == [415, 415, 415, 173]


def test_a_long_segment_among_short_ones_is_a_separate_chunk() -> None:
    chunks = _segments([50] * 300 + [50_000]).chunks

    assert [chunk.tokens.stop - chunk.tokens.start for chunk in chunks] == [15_000, 50_000]
