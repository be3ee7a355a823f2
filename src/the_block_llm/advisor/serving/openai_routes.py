"""Routes of the OpenAI API: chat completions, completions, models."""

from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from the_block_llm.advisor.advisor import Advisor
from the_block_llm.advisor.models.registry import ModelVersion, Role, check_model_name
from the_block_llm.advisor.output.citation_stream import Part
from the_block_llm.advisor.output.results import Answer, Completion, GenerationOptions
from the_block_llm.advisor.prompt.prompts import Message
from the_block_llm.advisor.serving import openai_schema
from the_block_llm.advisor.serving.error_responses import ERROR_RESPONSES
from the_block_llm.advisor.serving.request_handler import RequestHandler, ResponseFormat
from the_block_llm.advisor.serving.request_queue import Job

router = APIRouter(prefix="/v1", responses=ERROR_RESPONSES)
_JSON_OR_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The answer; with `stream`, its chunks as server-sent events.",
        "content": {"application/json": {}, "text/event-stream": {}},
    }
}


@router.post("/chat/completions", response_model=None, responses=_JSON_OR_STREAM)
async def chat(request: Request, body: openai_schema.ChatRequest) -> Response:
    """Answer the last message of a conversation."""
    advisor: Advisor = request.app.state.advisor
    version = _resolve_version(advisor, "advisor", body.model or request.app.state.model)
    messages = [_message(message) for message in body.messages]

    def work(job: Job[Answer]) -> Answer:
        return advisor.converse(
            messages,
            model=version.name,
            retrieval=body.retrieval is not False,
            options=_generation_options(body, body.max_new_tokens, job),
            on_part=job.emit,
        )

    handler: RequestHandler = request.app.state.request_handler
    chat_format = _ChatFormat(version.name, with_usage=_wants_usage(body))
    return await handler.respond(
        request,
        work,
        ResponseFormat(chat_format.chunk, chat_format.final_chunks, chat_format.response),
        stream=bool(body.stream),
    )


@router.post("/completions", response_model=None, responses=_JSON_OR_STREAM)
async def complete(request: Request, body: openai_schema.CompletionRequest) -> Response:
    """Complete code; with a suffix, fill in the middle."""
    advisor: Advisor = request.app.state.advisor
    version = _resolve_version(advisor, "completion", body.model)
    prefix, suffix = body.split_gap()

    def work(job: Job[Completion]) -> Completion:
        return advisor.complete_code(
            prefix,
            suffix,
            model=version.name,
            options=_generation_options(body, body.max_tokens, job),
            on_text=job.emit,
        )

    response_id = openai_schema.new_id("cmpl")

    def final_chunks(completion: Completion) -> list[dict[str, Any]]:
        chunks = [
            openai_schema.completion_chunk(
                response_id, completion.model, "", completion.finish_reason
            )
        ]
        if _wants_usage(body):
            chunks.append(openai_schema.usage_chunk(response_id, "text_completion", completion))
        return chunks

    handler: RequestHandler = request.app.state.request_handler
    return await handler.respond(
        request,
        work,
        ResponseFormat(
            lambda text: openai_schema.completion_chunk(response_id, version.name, text),
            final_chunks,
            lambda completion: openai_schema.completion_response(response_id, completion),
        ),
        stream=bool(body.stream),
    )


@router.get("/models")
def models(request: Request) -> dict[str, Any]:
    """List the names that requests may give as ``model``.

    The name of a profile alone selects its pinned or newest adapter.
    """
    data: list[dict[str, Any]] = []
    named: set[str] = set()
    for version in request.app.state.advisor.registry.list_models():
        profile = version.profile.name
        if version.adapter is not None and profile not in named:
            named.add(profile)
            data.append(_model_object(profile, version))
        data.append(_model_object(version.name, version))
    return {"object": "list", "data": data}


# Also with slashes, so that every other name gets this route's error.
@router.get("/models/{name:path}")
def model(request: Request, name: str) -> dict[str, Any]:
    """Return one model of the list."""
    return _model_object(name, request.app.state.advisor.registry.find(name))


@dataclass
class _ChatFormat:
    """Objects of one chat response; only the first chunk contains the role."""

    model: str
    with_usage: bool
    response_id: str = field(default_factory=lambda: openai_schema.new_id("chatcmpl"))
    _has_sent_role: bool = False

    def chunk(self, part: Part) -> dict[str, Any]:
        is_first, self._has_sent_role = not self._has_sent_role, True
        return openai_schema.chat_chunk(self.response_id, self.model, part, is_first=is_first)

    def final_chunks(self, answer: Answer) -> list[dict[str, Any]]:
        chunks = [openai_schema.chat_final_chunk(self.response_id, answer)]
        if self.with_usage:
            chunks.append(
                openai_schema.usage_chunk(self.response_id, "chat.completion.chunk", answer)
            )
        return chunks

    def response(self, answer: Answer) -> dict[str, Any]:
        return openai_schema.chat_response(self.response_id, answer)


def _resolve_version(advisor: Advisor, role: Role, name: str | None) -> ModelVersion:
    return advisor.registry.resolve(role, None if name is None else check_model_name(name))


def _message(message: openai_schema.ChatMessage) -> Message:
    # OpenAI's newer name for the system role is "developer".
    return Message("system" if message.role == "developer" else message.role, message.text)


def _generation_options(
    body: openai_schema.GenerationRequest, max_new_tokens: int | None, job: Job[Any]
) -> GenerationOptions:
    return GenerationOptions(
        max_new_tokens=max_new_tokens,
        temperature=0.0 if body.is_greedy else body.temperature or 0.0,
        top_p=body.top_p or 1.0,
        seed=body.seed or 0,
        stop_strings=body.stop_strings,
        is_cancelled=job.is_cancelled,
        deadline=job.deadline,
    )


def _wants_usage(body: openai_schema.GenerationRequest) -> bool:
    return bool(body.stream_options and body.stream_options.include_usage)


def _model_object(name: str, version: ModelVersion) -> dict[str, Any]:
    created = version.adapter.stat().st_mtime if version.adapter else 0
    return {
        "id": name,
        "object": "model",
        "created": int(created),
        "owned_by": "the_block_llm",
        "role": version.profile.role,
    }
