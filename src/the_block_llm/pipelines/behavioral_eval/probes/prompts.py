"""Prompts of probes; arms differ only in the retrieved passages before the question."""

from collections.abc import Sequence
from typing import Literal

from transformers import PreTrainedTokenizerBase

from the_block_llm.errors import ProfileError
from the_block_llm.pipelines.behavioral_eval.probes.suites import Probe
from the_block_llm.retrieval.passages import Passage


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    role: Literal["advisor", "completion"],
    probe: Probe,
    passages: Sequence[Passage] = (),
) -> str:
    """Render the prompt of a probe.

    For an advisor the chat template is applied, which includes the BOS token. A completion
    model gets the plain text to continue.

    Raises:
        ProfileError: An advisor's tokenizer has no chat template.
    """
    excerpts = "\n\n".join(f"[{passage.source}]\n{passage.text.strip()}" for passage in passages)
    if role == "completion":
        return "\n".join(part for part in (excerpts, probe.context, probe.prompt) if part)
    if not tokenizer.chat_template:
        raise ProfileError(
            "The profile has the role advisor, but its tokenizer has no chat template. Use the "
            "instruct variant of the model, or set role: completion."
        )
    heading = f"Excerpts from the project:\n\n{excerpts}" if excerpts else ""
    content = "\n\n".join(part for part in (heading, probe.context.strip(), probe.prompt) if part)
    return str(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
    )


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, role: Literal["advisor", "completion"], prompt: str
) -> list[int]:
    """Tokenize a rendered prompt; add special tokens unless the chat template did."""
    ids: list[int] = tokenizer(prompt, add_special_tokens=role == "completion")["input_ids"]
    return ids
