import pytest
import torch
from tests.builders.tiny_llama import tiny_llama

from the_block_llm.models.collate import collate_rows


def test_rows_are_collated_into_a_padded_micro_batch() -> None:
    rows = [
        {
            "input_ids": [5, 6, 7, 8, 9],
            "labels_mask": [True, True, False, True, True],
            "segment_lengths": [3, 2],
        },
        {"input_ids": [5, 6], "labels_mask": [False, True], "segment_lengths": [2]},
    ]
    batch = {name: tensor.tolist() for name, tensor in collate_rows(rows, 3).items()}
    assert batch == {
        "input_ids": [[5, 6, 7, 8, 9], [5, 6, 3, 3, 3]],
        "position_ids": [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]],
        # The first token of a segment has no context, so it is never a target.
        "labels": [[-100, 6, -100, -100, 9], [-100, 6, -100, -100, -100]],
    }


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_attention_does_not_cross_segments(mode: str) -> None:
    model = getattr(tiny_llama(), mode)()
    torch.manual_seed(0)
    first, other, second = (torch.randint(4, 200, (n,)).tolist() for n in (20, 20, 30))

    def logits(*segments: list[int]) -> torch.Tensor:
        ids = [token for segment in segments for token in segment]
        batch = collate_rows(
            [
                {
                    "input_ids": ids,
                    "labels_mask": [True] * len(ids),
                    "segment_lengths": [len(segment) for segment in segments],
                }
            ],
            3,
        )
        with torch.no_grad():
            return model(**batch, use_cache=False).logits[0, -len(segments[-1]) :]

    alone, beside_first, beside_other = logits(second), logits(first, second), logits(other, second)
    assert torch.equal(beside_first, beside_other)
    torch.testing.assert_close(beside_first, alone, atol=1e-5, rtol=1e-5)
