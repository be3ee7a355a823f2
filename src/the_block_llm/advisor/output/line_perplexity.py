"""Lines of code that a completion model finds unlikely."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import PreTrainedTokenizerFast

from the_block_llm.models.collate import collate_rows
from the_block_llm.models.inference.likelihood import token_nll

# Long code is scored in windows; each starts with tokens already scored in the window before.
_WINDOW_TOKENS: Final = 2048
_OVERLAP_TOKENS: Final = 512
# The average over a line of one or two tokens, such as a closing brace, is not informative.
_MIN_LINE_TOKENS: Final = 3
_CONTEXT_LINES: Final = 3  # before and after each line in an excerpt


@dataclass(frozen=True)
class LinePerplexity:
    """A line of code with its average negative log-likelihood."""

    line: int
    """Line number, from 1."""
    text: str
    bits_per_token: float


def highest_perplexity_lines(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    code: str,
    max_lines: int,
    document_start: str | None = None,
) -> list[LinePerplexity]:
    """Return the lines of ``code`` with the most bits per token, highest first.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer, with a pad token.
        code: Code to score.
        max_lines: Number of lines to return at most. Lines of fewer than three tokens are skipped.
        document_start: Token that precedes every document in the model's training data, if any.
    """
    encoded = tokenizer(
        code, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    start = [] if document_start is None else [tokenizer.convert_tokens_to_ids(document_start)]
    nll = _windowed_nll(model, tokenizer, [*start, *encoded["input_ids"]])[len(start) :]
    lines = code.split("\n")
    line_nll: dict[int, list[float]] = {}
    for (_, end), token_cost in zip(encoded["offset_mapping"], nll, strict=True):
        # A token belongs to the line on which it ends: one token may hold a line break and the
        # indentation after it.
        line_nll.setdefault(code.count("\n", 0, max(0, end - 1)), []).append(token_cost)
    scored = [
        LinePerplexity(index + 1, lines[index], sum(costs) / len(costs) / math.log(2))
        for index, costs in line_nll.items()
        if len(costs) >= _MIN_LINE_TOKENS and lines[index].strip()
    ]
    return sorted(scored, key=lambda line: -line.bits_per_token)[:max_lines]


def _windowed_nll(model: Any, tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[float]:
    """Return ``-ln p`` of each token given the preceding tokens of its window; 0 for the first."""
    nll: list[float] = []
    while len(nll) < len(ids):
        first = max(0, len(nll) - _OVERLAP_TOKENS)
        window = ids[first : first + _WINDOW_TOKENS]
        row = {
            "input_ids": window,
            "labels_mask": [True] * len(window),
            "segment_lengths": [len(window)],
        }
        with torch.no_grad():
            window_nll = token_nll(model, collate_rows([row], int(tokenizer.pad_token_id)))
        nll += window_nll[0].tolist()[len(nll) - first :]
    return nll


def format_excerpts(code: str, lines: Sequence[LinePerplexity]) -> str:
    """Format each line with its surrounding lines, for the prompt."""
    code_lines = code.split("\n")
    blocks = []
    for line in lines:
        first = max(1, line.line - _CONTEXT_LINES)
        excerpt = code_lines[first - 1 : line.line + _CONTEXT_LINES]
        numbered = "\n".join(f"{first + offset:>5}  {text}" for offset, text in enumerate(excerpt))
        blocks.append(
            f"Line {line.line}, {line.bits_per_token:.1f} bits a token: {line.text.strip()}\n"
            f"```\n{numbered}\n```"
        )
    return "\n\n".join(blocks)
