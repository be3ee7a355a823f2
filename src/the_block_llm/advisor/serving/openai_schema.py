"""Request and response objects of the OpenAI API, with extensions for citations.

In addition to the fields of OpenAI a chat response has ``citations`` and ``passages``, and a chunk
of a stream that is a citation has ``citation``. Clients that do not know these fields ignore them.
"""

import json
import re
import time
import uuid
from dataclasses import asdict
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

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


def _stop_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_StopStrings = Annotated[
    list[str] | None,
    BeforeValidator(_stop_list, json_schema_input_type=str | list[str] | None),
    Field(description="The answer ends before the first of these; at most four."),
]


def _unsupported(*harmless: Any) -> Any:
    """Declare a field that is not supported: null, or a value that changes nothing."""
    extra: Any = {"enum": [None, *harmless], "description": "Not supported."}
    return Field(default=None, json_schema_extra=extra)


class _CheckedModel(BaseModel):
    """Refuses fields of :func:`_unsupported` with other values; ignores unknown fields."""

    @field_validator("*", mode="before")
    @classmethod
    def _check_unsupported(cls, value: Any, info: ValidationInfo) -> Any:
        extra = cls.model_fields[str(info.field_name)].json_schema_extra
        if not isinstance(extra, dict) or value is None:
            return value
        harmless: Any = extra["enum"]
        if not any(type(value) is type(known) and value == known for known in harmless):
            raise PydanticCustomError(
                "unsupported",
                "would change the answer and is not supported; leave it out (accepted: {values})",
                {"values": ", ".join(map(json.dumps, (None, *harmless)))},
            )
        return value


class GenerationRequest(_CheckedModel):
    """Fields of both kinds of request; null is the same as leaving a field out.

    A field that would change the answer and is not supported is an error unless its value changes
    nothing. Others, such as ``user``, ``metadata`` or ``store``, are ignored. Numbers and booleans
    are strict: a string such as "0.7" or "yes" is an error.
    """

    model: str | None = Field(
        default=None,
        max_length=300,
        description="A name from /v1/models, or the name of a profile.",
    )
    temperature: float | None = Field(strict=True, default=None, ge=0, le=2)
    top_p: float | None = Field(strict=True, default=None, ge=0, le=1)
    seed: int | None = Field(strict=True, default=None, ge=-(2**63), lt=2**63)
    max_tokens: int | None = Field(strict=True, default=None, ge=1)
    stop: _StopStrings = None
    stream: bool | None = Field(default=None, strict=True)
    stream_options: "StreamOptions | None" = None
    n: Any = _unsupported(1)
    presence_penalty: Any = _unsupported(0, 0.0)
    frequency_penalty: Any = _unsupported(0, 0.0)
    logit_bias: Any = _unsupported({})
    # Of other servers and their clients.
    best_of: Any = _unsupported(1)
    top_k: Any = _unsupported(0, -1)
    min_p: Any = _unsupported(0, 0.0)
    typical_p: Any = _unsupported(1, 1.0)
    repetition_penalty: Any = _unsupported()
    repeat_penalty: Any = _unsupported()
    min_tokens: Any = _unsupported(0)
    ignore_eos: Any = _unsupported(False)
    stop_token_ids: Any = _unsupported([])
    grammar: Any = _unsupported("")
    json_schema: Any = _unsupported()
    guided_json: Any = _unsupported()
    guided_regex: Any = _unsupported()
    guided_choice: Any = _unsupported()
    guided_grammar: Any = _unsupported()

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The non-empty stop strings."""
        return tuple(stop for stop in self.stop or () if stop)

    @property
    def is_greedy(self) -> bool:
        """Whether each token is the most likely one."""
        return not self.temperature or self.top_p == 0

    @model_validator(mode="after")
    def _check_stop_count(self) -> "GenerationRequest":
        if len(self.stop_strings) > 4:
            raise ValueError("at most four stop strings")
        return self


class StreamOptions(BaseModel):
    """Options of a stream."""

    include_usage: bool | None = Field(default=None, strict=True)


class TextContentPart(BaseModel):
    """Part of the content of a message; only text is supported."""

    type: Literal["text"]
    text: str


class ChatMessage(_CheckedModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextContentPart]
    tool_calls: Any = _unsupported([])
    function_call: Any = _unsupported()

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class ChatRequest(GenerationRequest):
    """``POST /v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(strict=True, default=None, ge=1)
    retrieval: bool | None = Field(
        strict=True,
        default=None,
        description="Search the repository; true by default. An extension of the OpenAI API.",
    )
    tools: Any = _unsupported([])
    tool_choice: Any = _unsupported("none", "auto")
    functions: Any = _unsupported([])
    function_call: Any = _unsupported("none", "auto")
    response_format: Any = _unsupported({"type": "text"})
    logprobs: Any = _unsupported(False)
    top_logprobs: Any = _unsupported(0)
    modalities: Any = _unsupported([], ["text"])
    audio: Any = _unsupported()
    reasoning_effort: Any = _unsupported("none")
    verbosity: Any = _unsupported("medium")
    web_search_options: Any = _unsupported()

    @property
    def max_new_tokens(self) -> int | None:
        """The token limit under its current or its deprecated name."""
        return self.max_completion_tokens or self.max_tokens


def _single_prompt(value: Any) -> Any:
    if isinstance(value, list):
        if len(value) != 1:
            raise ValueError(f"it has {len(value)} texts, but one request completes one text")
        return value[0]
    return value


class CompletionRequest(GenerationRequest):
    """``POST /v1/completions``."""

    prompt: Annotated[
        str,
        BeforeValidator(_single_prompt, json_schema_input_type=str | list[str]),
        Field(min_length=1, description="One text, or a list of one."),
    ]
    suffix: str | None = None
    echo: Any = _unsupported(False)
    logprobs: Any = _unsupported()

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
