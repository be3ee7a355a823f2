"""How a batch of many short segments is cut for the flash kernel."""

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from the_block_llm.models.layerwise.kernels.attention import Segments, room_of_kernel


def _segments(lengths: list[int]) -> Segments:
    return Segments.of_lengths(lengths, torch.device("cpu"))


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=400))
def test_runs_hold_every_segment_once_and_fit(lengths: list[int]) -> None:
    segments = _segments(lengths)

    runs = segments.runs

    bounds = [run.tokens.start + int(start) for run in runs for start in run.starts[:-1]]
    assert (*bounds, sum(lengths)) == segments.bounds
    assert [b.tokens.start for b in runs[1:]] == [a.tokens.stop for a in runs[:-1]]
    for run in runs:
        own = [b - a for a, b in pairwise(run.starts.tolist())]
        assert run.longest == max(own)
        # 128 tokens of float32 for a segment are as much as 64 tokens take in all.
        padded = sum(own) + 64 * len(own)
        assert padded <= room_of_kernel(sum(lengths)) or len(own) == 1


def test_few_segments_stay_together() -> None:
    assert len(_segments([65_536]).runs) == 1
    # Eight rows of 1,024 with three documents each.
    assert len(_segments([300, 400, 324] * 8).runs) == 1


def test_a_long_row_of_short_documents_is_cut_into_few_runs() -> None:
    runs = _segments([46] * 1418).runs

    assert [len(run.starts) - 1 for run in runs] == [415, 415, 415, 173]


def test_a_long_segment_among_short_ones_is_a_run_of_its_own() -> None:
    runs = _segments([50] * 300 + [50_000]).runs

    assert [run.tokens.stop - run.tokens.start for run in runs] == [15_000, 50_000]
