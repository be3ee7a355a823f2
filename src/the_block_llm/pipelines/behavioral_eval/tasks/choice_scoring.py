"""Which choice a model finds likeliest."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from the_block_llm.models.inference.likelihood import PrefixedContinuations
from the_block_llm.pipelines.behavioral_eval.tasks.choice import ChoiceItem


@dataclass(frozen=True)
class ChoiceScore:
    """What a model chose."""

    chosen: int
    is_right: bool
    nats: tuple[float, ...]
    """Of each choice, all its tokens together."""

    def detail(self, item: ChoiceItem) -> str:
        """Everything about the item and its score, as JSON."""
        return json.dumps(
            {
                "prefix": item.prefix,
                "choices": item.choices,
                "answer": item.answer,
                "chosen": self.chosen,
                "nats": [round(value, 4) for value in self.nats],
                "tricks": item.tricks,
                "familiar": item.familiar,
            }
        )


def continued(
    tokenizer: PreTrainedTokenizerBase, prefix: str, item: ChoiceItem
) -> PrefixedContinuations:
    """``prefix`` with the item's choices to go on with, as token ids."""
    return PrefixedContinuations(
        tokenizer(prefix)["input_ids"],
        [tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in item.choices],
    )


def choice_score(item: ChoiceItem, nats: Sequence[float]) -> ChoiceScore:
    """Take the choice that costs fewest nats a byte.

    A byte, because a longer choice costs more in all and would never be taken.
    """
    per_byte = [
        value / len(choice.encode()) for value, choice in zip(nats, item.choices, strict=True)
    ]
    chosen = per_byte.index(min(per_byte))
    return ChoiceScore(chosen=chosen, is_right=chosen == item.answer, nats=tuple(nats))
