"""The prompt of a probe, the same for every arm but for what retrieval puts before it."""

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
    """Write the prompt as the model is to see it.

    An advisor gets the chat template, which already writes the opening token; a completion
    model gets the bare text to continue.

    Raises:
        ProfileError: An advisor's tokenizer has no chat template.
    """
    found = "\n\n".join(f"[{passage.source}]\n{passage.text.strip()}" for passage in passages)
    if role == "completion":
        return "\n".join(part for part in (found, probe.context, probe.prompt) if part)
    if not tokenizer.chat_template:
        raise ProfileError(
            "The profile's role is advisor, but its tokenizer has no chat template to put "
            "questions with. Use the instruct variant of the model, or role: completion."
        )
    heading = f"Excerpts from the project:\n\n{found}" if found else ""
    content = "\n\n".join(part for part in (heading, probe.context.strip(), probe.prompt) if part)
    return str(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
    )


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, role: Literal["advisor", "completion"], prompt: str
) -> list[int]:
    """Token ids of a rendered prompt; special tokens are added where no template did."""
    ids: list[int] = tokenizer(prompt, add_special_tokens=role == "completion")["input_ids"]
    return ids
