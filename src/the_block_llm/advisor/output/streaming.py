"""Streaming generation of one answer, with stop strings, cancellation and a deadline."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast, RepetitionPenaltyLogitsProcessor
from transformers.generation.streamers import BaseStreamer

from the_block_llm.models.inference.generation import (
    SamplingParams,
    logits_processors,
    make_generation_config,
)
from the_block_llm.models.inference.likelihood import unwrap_peft_model

# Chunked prefill bounds the activation memory, whatever the length of the prompt.
_PREFILL_TOKENS: Final = 1024
FinishReason = Literal["stop", "length", "cancelled", "time"]


@dataclass(frozen=True)
class StreamResult:
    """Length of an answer and why it ended."""

    n_tokens: int
    """New tokens, without the stop token."""
    finish_reason: FinishReason
    """``length``: the token limit was reached; ``time``: the deadline was."""


def stream_text(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    prompt: Sequence[int],
    sampling: SamplingParams,
    on_text: Callable[[str], None],
    *,
    repetition_penalty: float = 1.0,
    stop_strings: Sequence[str] = (),
    stop_token_ids: Sequence[int] = (),
    is_cancelled: Callable[[], bool] = lambda: False,
    deadline: float | None = None,
) -> StreamResult:
    """Generate an answer to ``prompt`` and pass on its text as it is decoded.

    Args:
        model: A causal language model in evaluation mode, with or without an adapter.
        tokenizer: Its tokenizer, with a pad token.
        prompt: Token ids, at least one.
        sampling: Token limit and sampling parameters.
        on_text: Called with each new piece of text; a character is never split.
        repetition_penalty: Divides the logits of tokens that are already in the answer. Tokens of
            the prompt are exempt, since an answer must be able to cite the prompt.
        stop_strings: The answer ends before the first occurrence of any of these.
        stop_token_ids: Tokens that end the answer, in addition to those of the model.
        is_cancelled: Called after every token; the answer ends when it returns True.
        deadline: Time at which the answer ends, on the clock of ``time.monotonic``.
    """
    config = make_generation_config(model, tokenizer, sampling)
    config.eos_token_id = sorted({*config.eos_token_id, *stop_token_ids})
    if len(prompt) > _PREFILL_TOKENS:
        config.prefill_chunk_size = _PREFILL_TOKENS
    causal_lm = unwrap_peft_model(model)
    device = causal_lm.get_input_embeddings().weight.device
    ids = torch.tensor([list(prompt)], device=device)
    streamer = _TextStreamer(
        tokenizer, set(config.eos_token_id), stop_strings, on_text, is_cancelled, deadline
    )
    processors = logits_processors(sampling, [prompt])
    if repetition_penalty > 1:
        processors.insert(
            0,
            RepetitionPenaltyLogitsProcessor(repetition_penalty, prompt_ignore_length=len(prompt)),
        )
    try:
        with torch.no_grad():
            causal_lm.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                logits_processor=processors,
                streamer=streamer,
            )
    except _StreamEndedError as ended:
        finish_reason: FinishReason = ended.finish_reason
    else:
        finish_reason = "length"
    if finish_reason != "cancelled":
        streamer.flush()
    return StreamResult(streamer.n_tokens, finish_reason)


class _StreamEndedError(Exception):
    """Raised by the streamer to leave the generation loop of transformers."""

    def __init__(self, finish_reason: FinishReason) -> None:
        super().__init__(finish_reason)
        self.finish_reason: FinishReason = finish_reason


class _TextStreamer(BaseStreamer):
    """Decodes tokens incrementally and ends the generation loop."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        stop_token_ids: set[int],
        stop_strings: Sequence[str],
        on_text: Callable[[str], None],
        is_cancelled: Callable[[], bool],
        deadline: float | None,
    ) -> None:
        self.n_tokens = 0
        self._tokenizer = tokenizer.backend_tokenizer
        # Special tokens that are not stop tokens are left out of the text.
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop_token_ids = stop_token_ids
        self._stop_strings = [text for text in stop_strings if text]
        self._on_text = on_text
        self._is_cancelled = is_cancelled
        self._deadline = deadline
        self._pending = ""
        """Text that may be the start of a stop string."""
        self._has_skipped_prompt = False

    def put(self, value: torch.Tensor) -> None:
        """Handle the next tokens; transformers passes the prompt first."""
        if self._is_cancelled():
            raise _StreamEndedError("cancelled")
        if not self._has_skipped_prompt:
            self._has_skipped_prompt = True
            return
        for token in value.flatten().tolist():
            if token in self._stop_token_ids:
                raise _StreamEndedError("stop")
            self.n_tokens += 1
            self._emit(self._decoder.step(self._tokenizer, token) or "")
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise _StreamEndedError("time")

    def end(self) -> None:
        """Do nothing; transformers calls this when the token limit is reached."""

    def flush(self) -> None:
        """Emit the pending text."""
        if self._pending:
            self._on_text(self._pending)
            self._pending = ""

    def _emit(self, text: str) -> None:
        text = self._pending + text
        matches = [at for stop in self._stop_strings if (at := text.find(stop)) >= 0]
        if matches:
            self._pending = text[: min(matches)]
            raise _StreamEndedError("stop")
        n_pending = max((_partial_match(text, stop) for stop in self._stop_strings), default=0)
        self._pending = text[len(text) - n_pending :]
        if ready := text[: len(text) - n_pending]:
            self._on_text(ready)


def _partial_match(text: str, stop: str) -> int:
    """Return the length of the longest proper prefix of ``stop`` with which ``text`` ends."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
