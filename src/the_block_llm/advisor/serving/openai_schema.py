"""Request and response objects of the OpenAI API, with extensions for citations.

In addition to the fields of OpenAI a chat response has ``citations`` and ``passages``, and a chunk
of a stream that is a citation has ``citation``. Clients that do not know these fields ignore them.
"""

import re
import time
import uuid
from dataclasses import asdict
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, model_validator

from the_block_llm.advisor.output.citation_stream import Part
from the_block_llm.advisor.output.results import Answer, Completion
from the_block_llm.advisor.output.streaming import FinishReason
from the_block_llm.advisor.prompt.prompts import passage_heading

# Editors put the fill-in-the-middle tokens into the prompt themselves, after other open files.
_FIM_PROMPT: Final = re.compile(
    r"(?P<other_files>.*?)<\|?fim_prefix\|?>(?P<prefix>.*)<\|?fim_suffix\|?>(?P<suffix>.*)<\|?fim_middle\|?>",
    re.DOTALL,
)
_FILE_SEPARATOR: Final = re.compile(r"<\|?file_sep\|?>")
_StopStrings = Annotated[
    str | list[Annotated[str, Field(min_length=1)]] | None,
    Field(description="The answer ends before the first of these; at most four."),
]


class GenerationRequest(BaseModel):
    """Fields of both kinds of request; unknown fields are ignored, as OpenAI does.

    Numbers and booleans are strict: a string such as "0.7" or "yes" is an error.
    """

    model: str | None = Field(
        default=None,
        max_length=300,
        description="A name from /v1/models, or the name of a profile.",
    )
    temperature: float = Field(strict=True, default=0.0, ge=0, le=2)
    top_p: float = Field(strict=True, default=1.0, gt=0, le=1)
    seed: int | None = Field(strict=True, default=None, ge=0, le=2**31)
    max_tokens: int | None = Field(strict=True, default=None, ge=1, le=1_000_000)
    stop: _StopStrings = None
    stream: bool | None = Field(default=False, strict=True)
    stream_options: "StreamOptions | None" = None
    n: int | None = Field(
        strict=True, default=1, ge=1, le=1, description="Only one answer per request."
    )
    presence_penalty: float | None = Field(strict=True, default=0, ge=0, le=0)
    frequency_penalty: float | None = Field(strict=True, default=0, ge=0, le=0)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The non-empty stop strings."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in stops if stop)

    @model_validator(mode="after")
    def _check_stop_count(self) -> "GenerationRequest":
        if len(self.stop_strings) > 4:
            raise ValueError("at most four stop strings")
        return self


class StreamOptions(BaseModel):
    """Options of a stream."""

    include_usage: bool | None = Field(default=False, strict=True)


class TextContentPart(BaseModel):
    """Part of the content of a message; only text is supported."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextContentPart]

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class ChatRequest(GenerationRequest):
    """``POST /v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(strict=True, default=None, ge=1, le=1_000_000)
    retrieval: bool = Field(
        strict=True,
        default=True,
        description="Search the repository. An extension of the OpenAI API.",
    )
    tools: list[Any] | None = Field(default=None, max_length=0, description="Not supported.")

    @property
    def max_new_tokens(self) -> int | None:
        """The token limit under its current or its deprecated name."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(GenerationRequest):
    """``POST /v1/completions``."""

    prompt: str = Field(min_length=1)
    suffix: str | None = None
    echo: Literal[False] | None = False
    best_of: int | None = Field(strict=True, default=1, ge=1, le=1)

    def split_gap(self) -> tuple[str, str]:
        """Return the code before and after the gap to fill."""
        fim_prompt = _FIM_PROMPT.fullmatch(self.prompt)
        if fim_prompt and not self.suffix:
            other_files = _FILE_SEPARATOR.sub("\n", fim_prompt["other_files"]).lstrip("\n")
            return other_files + fim_prompt["prefix"], fim_prompt["suffix"]
        return self.prompt, self.suffix or ""


class ErrorBody(BaseModel):
    """Error object of OpenAI."""

    message: str
    type: str
    code: str | None = None
    param: str | None = None


class ErrorResponse(BaseModel):
    """Body of every error response."""

    error: ErrorBody


def new_id(prefix: str) -> str:
    """Return a new response id, such as ``chatcmpl-…``."""
    return f"{prefix}-{uuid.uuid4().hex}"


def finish_reason(reason: FinishReason) -> str:
    """Return the finish reason of OpenAI: ``stop`` or ``length``."""
    return "stop" if reason == "stop" else "length"


def chat_response(response_id: str, answer: Answer) -> dict[str, Any]:
    """Return a complete chat completion."""
    return {
        **_header(response_id, "chat.completion", answer.model),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": None,
                "finish_reason": finish_reason(answer.finish_reason),
            }
        ],
        "usage": usage(answer),
        "citations": [asdict(citation) for citation in answer.citations],
        "passages": passage_objects(answer),
    }


def chat_chunk(response_id: str, model: str, part: Part, *, is_first: bool) -> dict[str, Any]:
    """Return a chunk of a chat completion, with its citation if it is one."""
    delta = {"content": part.annotated_text(), **({"role": "assistant"} if is_first else {})}
    return {
        **_header(response_id, "chat.completion.chunk", model),
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}],
        **({"citation": asdict(part.citation)} if part.citation else {}),
    }


def chat_final_chunk(response_id: str, answer: Answer) -> dict[str, Any]:
    """Return the last chunk with a choice, which holds the finish reason and the passages."""
    reason = finish_reason(answer.finish_reason)
    return {
        **_header(response_id, "chat.completion.chunk", answer.model),
        "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason}],
        "passages": passage_objects(answer),
    }


def completion_response(response_id: str, completion: Completion) -> dict[str, Any]:
    """Return a complete text completion."""
    return {
        **_header(response_id, "text_completion", completion.model),
        "choices": [_text_choice(completion.text, finish_reason(completion.finish_reason))],
        "usage": usage(completion),
    }


def completion_chunk(
    response_id: str, model: str, text: str, reason: FinishReason | None = None
) -> dict[str, Any]:
    """Return a chunk of a text completion."""
    choice = _text_choice(text, None if reason is None else finish_reason(reason))
    return {**_header(response_id, "text_completion", model), "choices": [choice]}


def usage_chunk(response_id: str, object_type: str, result: Answer | Completion) -> dict[str, Any]:
    """Return the usage chunk, which ends a stream if the client requested it."""
    return {
        **_header(response_id, object_type, result.model),
        "choices": [],
        "usage": usage(result),
    }


def usage(result: Answer | Completion) -> dict[str, int]:
    """Return the usage object: prompt and completion tokens."""
    return {
        "prompt_tokens": result.n_prompt_tokens,
        "completion_tokens": result.n_tokens,
        "total_tokens": result.n_prompt_tokens + result.n_tokens,
    }


def passage_objects(answer: Answer) -> list[dict[str, Any]]:
    """Return the retrieved passages as JSON objects."""
    return [
        {
            "heading": passage_heading(passage),
            "source": passage.source,
            "first_line": passage.first_line,
            "last_line": passage.last_line,
        }
        for passage in answer.passages
    ]


def _header(response_id: str, object_type: str, model: str) -> dict[str, Any]:
    return {"id": response_id, "object": object_type, "created": int(time.time()), "model": model}


def _text_choice(text: str, reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
