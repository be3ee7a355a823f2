"""What goes over the wire: OpenAI's chat and completion objects, and what we add to them.

Beside OpenAI's fields a chat answer carries ``citations`` and ``passages``, and a piece of a
stream that is a citation carries it as ``citation``. Clients that do not know these fields
pass over them.
"""

import re
import time
import uuid
from dataclasses import asdict
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, model_validator

from the_block_llm.advisor.output.citation_stream import Part
from the_block_llm.advisor.output.results import Answer, Completion
from the_block_llm.advisor.prompt.prompts import passage_heading

# Editors write the marks for the middle into the prompt themselves, other open files before them.
_MIDDLE: Final = re.compile(
    r"(?P<others>.*?)<\|?fim_prefix\|?>(?P<prefix>.*)<\|?fim_suffix\|?>(?P<suffix>.*)<\|?fim_middle\|?>",
    re.DOTALL,
)
_FILE_MARK: Final = re.compile(r"<\|?file_sep\|?>")
_Stop = Annotated[
    str | list[Annotated[str, Field(min_length=1)]] | None,
    Field(description="The answer ends before the first of these; at most four."),
]


class Sampling(BaseModel):
    """Fields that both kinds of request have; unknown ones are passed over, as OpenAI does.

    Numbers and truth values must be that: "0.7" or "yes" is a mistake to hear of.
    """

    model: str | None = Field(
        default=None, max_length=300, description="One of /v1/models, or a profile's name alone."
    )
    temperature: float = Field(strict=True, default=0.0, ge=0, le=2)
    top_p: float = Field(strict=True, default=1.0, gt=0, le=1)
    seed: int | None = Field(strict=True, default=None, ge=0, le=2**31)
    max_tokens: int | None = Field(strict=True, default=None, ge=1, le=1_000_000)
    stop: _Stop = None
    stream: bool | None = Field(default=False, strict=True)
    stream_options: "StreamOptions | None" = None
    n: int | None = Field(strict=True, default=1, ge=1, le=1, description="One answer a request.")
    presence_penalty: float | None = Field(strict=True, default=0, ge=0, le=0)
    frequency_penalty: float | None = Field(strict=True, default=0, ge=0, le=0)

    @property
    def stop_texts(self) -> tuple[str, ...]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in stops if stop)

    @model_validator(mode="after")
    def _few_stops(self) -> "Sampling":
        if len(self.stop_texts) > 4:
            raise ValueError("at most four stop texts")
        return self


class StreamOptions(BaseModel):
    """What a stream ends with."""

    include_usage: bool | None = Field(default=False, strict=True)


class TextPiece(BaseModel):
    """Part of a message's content; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPiece]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(piece.text for piece in self.content)


class ChatRequest(Sampling):
    """``POST /v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(strict=True, default=None, ge=1, le=1_000_000)
    retrieval: bool = Field(
        strict=True, default=True, description="Search the repository. Ours, not OpenAI's."
    )
    tools: list[Any] | None = Field(default=None, max_length=0, description="Not supported.")

    @property
    def new_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Sampling):
    """``POST /v1/completions``."""

    prompt: str = Field(min_length=1)
    suffix: str | None = None
    echo: Literal[False] | None = False
    best_of: int | None = Field(strict=True, default=1, ge=1, le=1)

    def gap(self) -> tuple[str, str]:
        """Code before and after what is to be written."""
        marked = _MIDDLE.fullmatch(self.prompt)
        if marked and not self.suffix:
            others = _FILE_MARK.sub("\n", marked["others"]).lstrip("\n")
            return others + marked["prefix"], marked["suffix"]
        return self.prompt, self.suffix or ""


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    code: str | None = None
    param: str | None = None


class ErrorReply(BaseModel):
    """Every error, in OpenAI's form."""

    error: ErrorBody


def new_id(kind: str) -> str:
    """An id such as OpenAI's replies have."""
    return f"{kind}-{uuid.uuid4().hex}"


def finish_reason(finish: str) -> str:
    """As OpenAI calls it."""
    return "stop" if finish == "stop" else "length"


def chat_reply(reply_id: str, answer: Answer) -> dict[str, Any]:
    """A whole chat completion."""
    return {
        **_head(reply_id, "chat.completion", answer.model),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": None,
                "finish_reason": finish_reason(answer.finish),
            }
        ],
        "usage": usage(answer),
        "citations": [asdict(citation) for citation in answer.citations],
        "passages": passages_of(answer),
    }


def chat_chunk(reply_id: str, model: str, part: Part, *, is_first: bool) -> dict[str, Any]:
    """A piece of a chat completion, and the citation it is."""
    delta = {"content": part.marked(), **({"role": "assistant"} if is_first else {})}
    return {
        **_head(reply_id, "chat.completion.chunk", model),
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}],
        **({"citation": asdict(part.citation)} if part.citation else {}),
    }


def chat_end(reply_id: str, answer: Answer) -> dict[str, Any]:
    """The last piece that has a choice."""
    reason = finish_reason(answer.finish)
    return {
        **_head(reply_id, "chat.completion.chunk", answer.model),
        "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason}],
        "passages": passages_of(answer),
    }


def completion_reply(reply_id: str, found: Completion) -> dict[str, Any]:
    """A whole text completion."""
    return {
        **_head(reply_id, "text_completion", found.model),
        "choices": [_text_choice(found.text, finish_reason(found.finish))],
        "usage": usage(found),
    }


def completion_chunk(
    reply_id: str, model: str, text: str, finish: str | None = None
) -> dict[str, Any]:
    """A piece of a text completion."""
    reason = None if finish is None else finish_reason(finish)
    return {**_head(reply_id, "text_completion", model), "choices": [_text_choice(text, reason)]}


def usage_chunk(reply_id: str, kind: str, made: Answer | Completion) -> dict[str, Any]:
    """What a stream ends with where the client asked for it."""
    return {**_head(reply_id, kind, made.model), "choices": [], "usage": usage(made)}


def usage(made: Answer | Completion) -> dict[str, int]:
    """Tokens read and written."""
    return {
        "prompt_tokens": made.n_prompt_tokens,
        "completion_tokens": made.n_tokens,
        "total_tokens": made.n_prompt_tokens + made.n_tokens,
    }


def passages_of(answer: Answer) -> list[dict[str, Any]]:
    """What the answer was given to read."""
    return [
        {
            "heading": passage_heading(passage),
            "source": passage.source,
            "first_line": passage.first_line,
            "last_line": passage.last_line,
        }
        for passage in answer.passages
    ]


def _head(reply_id: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": reply_id, "object": kind, "created": int(time.time()), "model": model}


def _text_choice(text: str, reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
