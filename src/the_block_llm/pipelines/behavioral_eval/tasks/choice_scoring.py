"""Scores multiple-choice items by the likelihood of each choice."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from the_block_llm.models.inference.likelihood import PrefixedContinuations
from the_block_llm.pipelines.behavioral_eval.tasks.choice import ChoiceItem


@dataclass(frozen=True)
class ChoiceScore:
    """The choice of a model."""

    chosen: int
    is_correct: bool
    nats: tuple[float, ...]
    """Negative log-likelihood of each choice, summed over its tokens."""

    def detail(self, item: ChoiceItem) -> str:
        """Return item and score as JSON, for the column ``detail``."""
        return json.dumps(
            {
                "prefix": item.prefix,
                "choices": item.choices,
                "answer": item.answer,
                "chosen": self.chosen,
                "nats": [round(value, 4) for value in self.nats],
                "tricks": item.heuristic_baselines,
                "familiar": item.train_overlap,
            }
        )


def encode_choices(
    tokenizer: PreTrainedTokenizerBase, prefix: str, item: ChoiceItem
) -> PrefixedContinuations:
    """Tokenize ``prefix`` and the item's choices as its continuations."""
    return PrefixedContinuations(
        tokenizer(prefix)["input_ids"],
        [tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in item.choices],
    )


def score_choices(item: ChoiceItem, nats: Sequence[float]) -> ChoiceScore:
    """Choose the continuation with the fewest nats per byte.

    Normalized by length in bytes, as ``acc_norm`` of lm-evaluation-harness: without it, shorter
    choices are favored.

    Args:
        item: The question.
        nats: Negative log-likelihood of each choice.
    """
    nats_per_byte = [
        value / len(choice.encode()) for value, choice in zip(nats, item.choices, strict=True)
    ]
    chosen = nats_per_byte.index(min(nats_per_byte))
    return ChoiceScore(chosen=chosen, is_correct=chosen == item.answer, nats=tuple(nats))
