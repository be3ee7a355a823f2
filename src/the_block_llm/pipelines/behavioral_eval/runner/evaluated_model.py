"""The model under test, with its adapter enabled or disabled.

Base and tuned arms share one set of loaded weights, so they differ in the adapter only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from the_block_llm.pipelines.behavioral_eval.params import Arm


@dataclass(frozen=True)
class EvaluatedModel:
    """A loaded model with its tokenizers and the ids that identify its weights."""

    model: PeftModel | PreTrainedModel
    """A model without an adapter serves the base arms only."""
    tokenizer: PreTrainedTokenizerBase
    """Tokenizer of the base model."""
    role: Literal["advisor", "completion"]
    base_id: str
    """Identifies the base weights and the device type they run on."""
    adapter_id: str
    """Identifies the adapter's weights."""
    tuned_tokenizer: PreTrainedTokenizerBase | None = None
    """Tokenizer with the tokens added for training; ``None``: no tokens were added."""
    added_token_ids: frozenset[int] = frozenset()
    """Ids of added tokens in the held-out rows, which the base model does not know."""

    def tokenizer_for(self, arm: Arm) -> PreTrainedTokenizerBase:
        """Return the tokenizer of ``arm``."""
        tuned = self.tuned_tokenizer if is_tuned(arm) else None
        return tuned or self.tokenizer

    def unknown_token_ids(self, arm: Arm) -> frozenset[int]:
        """Return the added tokens that ``arm`` does not know.

        These are all of them for the base, and for an adapter trained without added tokens.
        """
        knows_added_tokens = is_tuned(arm) and self.tuned_tokenizer is not None
        return frozenset() if knows_added_tokens else self.added_token_ids

    @contextmanager
    def activate(self, arm: Arm) -> Iterator[PeftModel | PreTrainedModel]:
        """Yield the model with its adapter enabled or disabled, as ``arm`` needs it."""
        if is_tuned(arm) or not isinstance(self.model, PeftModel):
            yield self.model
        else:
            with self.model.disable_adapter():
                yield self.model

    def weights_id(self, arm: Arm) -> str:
        """Return the id of the weights that ``arm`` uses."""
        return f"{self.base_id}+{self.adapter_id}" if is_tuned(arm) else self.base_id


def is_tuned(arm: Arm) -> bool:
    """Return True for the arms with the adapter."""
    return arm.startswith("tuned")


def uses_retrieval(arm: Arm) -> bool:
    """Return True for the arms whose prompts contain retrieved passages."""
    return arm.endswith("_retrieval")
