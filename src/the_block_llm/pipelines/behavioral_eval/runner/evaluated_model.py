"""The model under test, with its adapter on or off.

Base and tuned are the same loaded weights, so nothing but the adapter can differ.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from the_block_llm.pipelines.behavioral_eval.params import Arm


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and how to speak to it."""

    model: PeftModel | PreTrainedModel
    """Without an adapter it can answer as the base only."""
    tokenizer: PreTrainedTokenizerBase
    """Of the base."""
    role: Literal["advisor", "completion"]
    base_id: str
    """Identifies the base weights and the arithmetic they run in."""
    adapter_id: str
    """Identifies the adapter's weights."""
    tuned_tokenizer: PreTrainedTokenizerBase | None = None
    """The same with the tokens that the adapter was trained with; none: it has no more."""
    added_ids: frozenset[int] = frozenset()
    """Ids of tokens that stand in held-out rows and that the base cannot read."""

    def tokenizer_of(self, arm: Arm) -> PreTrainedTokenizerBase:
        """What writes the prompts of ``arm``."""
        tuned = self.tuned_tokenizer if is_tuned(arm) else None
        return tuned or self.tokenizer

    def unread_by(self, arm: Arm) -> frozenset[int]:
        """Which of them ``arm`` cannot read: nor can an adapter that was trained without them."""
        reads = is_tuned(arm) and self.tuned_tokenizer is not None
        return frozenset() if reads else self.added_ids

    @contextmanager
    def as_arm(self, arm: Arm) -> Iterator[PeftModel | PreTrainedModel]:
        """The model as ``arm`` sees it."""
        if is_tuned(arm) or not isinstance(self.model, PeftModel):
            yield self.model
        else:
            with self.model.disable_adapter():
                yield self.model

    def weights_of(self, arm: Arm) -> str:
        """Identifies the weights that answer in ``arm``."""
        return f"{self.base_id}+{self.adapter_id}" if is_tuned(arm) else self.base_id


def is_tuned(arm: Arm) -> bool:
    """True for the arms with the adapter."""
    return arm.startswith("tuned")


def retrieves(arm: Arm) -> bool:
    """True for the arms that are shown passages of the repository."""
    return arm.endswith("_retrieval")
