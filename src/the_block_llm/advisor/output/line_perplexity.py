"""Which lines of a piece of code a completion model did not expect."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import PreTrainedTokenizerFast

from the_block_llm.models.collate import collate_rows
from the_block_llm.models.inference.likelihood import token_nll

# Code is read in windows; each begins with tokens that were measured in the one before.
_WINDOW_TOKENS: Final = 2048
_OVERLAP_TOKENS: Final = 512
# A brace or a name alone says little.
_FEWEST_TOKENS: Final = 3
_LINES_AROUND: Final = 3  # shown before and after one that is asked about


@dataclass(frozen=True)
class SurprisingLine:
    """A line and how unlikely it was."""

    line: int
    """From 1."""
    text: str
    bits_per_token: float


def surprising_lines(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    code: str,
    n_lines: int,
    document_start: str | None = None,
) -> list[SurprisingLine]:
    """The ``n_lines`` lines of ``code`` that cost the model most bits a token, worst first.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer, with a pad token.
        code: What is read, from its first line on.
        n_lines: How many lines at most; lines of fewer than three tokens are passed over.
        document_start: Token before every document, where the model was trained with one.
    """
    encoded = tokenizer(
        code, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    start = [] if document_start is None else [tokenizer.convert_tokens_to_ids(document_start)]
    nats = _token_nats(model, tokenizer, [*start, *encoded["input_ids"]])[len(start) :]
    lines = code.split("\n")
    costs: dict[int, list[float]] = {}
    for (_, end), cost in zip(encoded["offset_mapping"], nats, strict=True):
        # The token that ends on a line belongs to it: an indent comes with the line break before.
        costs.setdefault(code.count("\n", 0, max(0, end - 1)), []).append(cost)
    found = [
        SurprisingLine(row + 1, lines[row], sum(cost) / len(cost) / math.log(2))
        for row, cost in costs.items()
        if len(cost) >= _FEWEST_TOKENS and lines[row].strip()
    ]
    return sorted(found, key=lambda line: -line.bits_per_token)[:n_lines]


def _token_nats(model: Any, tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[float]:
    """``-ln p`` of each token given those before it in its window; 0 for the first of all."""
    nats: list[float] = []
    while len(nats) < len(ids):
        first = max(0, len(nats) - _OVERLAP_TOKENS)
        window = ids[first : first + _WINDOW_TOKENS]
        row = {
            "input_ids": window,
            "labels_mask": [True] * len(window),
            "segment_lengths": [len(window)],
        }
        with torch.no_grad():
            measured = token_nll(model, collate_rows([row], int(tokenizer.pad_token_id)))
        nats += measured[0].tolist()[len(nats) - first :]
    return nats


def excerpts(code: str, found: Sequence[SurprisingLine]) -> str:
    """Each surprising line among its neighbours."""
    lines = code.split("\n")
    blocks = []
    for line in found:
        first = max(1, line.line - _LINES_AROUND)
        around = lines[first - 1 : line.line + _LINES_AROUND]
        shown = "\n".join(f"{first + at:>5}  {text}" for at, text in enumerate(around))
        blocks.append(
            f"Line {line.line}, {line.bits_per_token:.1f} bits a token: {line.text.strip()}\n"
            f"```\n{shown}\n```"
        )
    return "\n\n".join(blocks)
