"""The routes that OpenAI's clients know."""

from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from the_block_llm.advisor.advisor import Advisor
from the_block_llm.advisor.models.registry import Choice, Role, check_model_name
from the_block_llm.advisor.output.citation_stream import Part
from the_block_llm.advisor.output.results import Answer, Completion, Wish
from the_block_llm.advisor.prompt.prompts import Message
from the_block_llm.advisor.serving import openai_schema
from the_block_llm.advisor.serving.error_responses import ERRORS
from the_block_llm.advisor.serving.request_handler import Answering, Rendering
from the_block_llm.advisor.serving.request_queue import Job

router = APIRouter(prefix="/v1", responses=ERRORS)
_WHOLE_OR_STREAMED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The answer; with `stream`, its pieces as server-sent events.",
        "content": {"application/json": {}, "text/event-stream": {}},
    }
}


@router.post("/chat/completions", response_model=None, responses=_WHOLE_OR_STREAMED)
async def chat(request: Request, asked: openai_schema.ChatRequest) -> Response:
    """Answer the last message."""
    advisor: Advisor = request.app.state.advisor
    choice = _choose(advisor, "advisor", asked.model or request.app.state.model)
    messages = [_message(message) for message in asked.messages]

    def work(job: Job[Answer]) -> Answer:
        return advisor.converse(
            messages,
            model=choice.name,
            retrieval=asked.retrieval,
            wish=_wish(asked, asked.new_tokens, job),
            on_part=job.emit,
        )

    answering: Answering = request.app.state.answering
    rendering = _ChatRendering(choice.name, with_usage=_wants_usage(asked))
    return await answering.respond(
        request,
        work,
        Rendering(rendering.chunk, rendering.last_chunks, rendering.whole),
        stream=bool(asked.stream),
    )


@router.post("/completions", response_model=None, responses=_WHOLE_OR_STREAMED)
async def complete(request: Request, asked: openai_schema.CompletionRequest) -> Response:
    """Complete code, in the middle where there is a suffix."""
    advisor: Advisor = request.app.state.advisor
    choice = _choose(advisor, "completion", asked.model)
    prefix, suffix = asked.gap()

    def work(job: Job[Completion]) -> Completion:
        return advisor.complete_code(
            prefix,
            suffix,
            model=choice.name,
            wish=_wish(asked, asked.max_tokens, job),
            on_text=job.emit,
        )

    reply_id = openai_schema.new_id("cmpl")

    def last_chunks(made: Completion) -> list[dict[str, Any]]:
        chunks = [openai_schema.completion_chunk(reply_id, made.model, "", made.finish)]
        if _wants_usage(asked):
            chunks.append(openai_schema.usage_chunk(reply_id, "text_completion", made))
        return chunks

    answering: Answering = request.app.state.answering
    return await answering.respond(
        request,
        work,
        Rendering(
            lambda text: openai_schema.completion_chunk(reply_id, choice.name, text),
            last_chunks,
            lambda made: openai_schema.completion_reply(reply_id, made),
        ),
        stream=bool(asked.stream),
    )


@router.get("/models")
def models(request: Request) -> dict[str, Any]:
    """Everything that can be asked by name; a profile's name alone means its newest adapter."""
    choices = request.app.state.advisor.choices.listed()
    return {"object": "list", "data": [_model_object(choice) for choice in choices]}


@dataclass
class _ChatRendering:
    """Chat answers; only the first piece names the speaker."""

    model: str
    with_usage: bool
    reply_id: str = field(default_factory=lambda: openai_schema.new_id("chatcmpl"))
    _has_spoken: bool = False

    def chunk(self, part: Part) -> dict[str, Any]:
        is_first, self._has_spoken = not self._has_spoken, True
        return openai_schema.chat_chunk(self.reply_id, self.model, part, is_first=is_first)

    def last_chunks(self, answer: Answer) -> list[dict[str, Any]]:
        chunks = [openai_schema.chat_end(self.reply_id, answer)]
        if self.with_usage:
            chunks.append(openai_schema.usage_chunk(self.reply_id, "chat.completion.chunk", answer))
        return chunks

    def whole(self, answer: Answer) -> dict[str, Any]:
        return openai_schema.chat_reply(self.reply_id, answer)


def _choose(advisor: Advisor, role: Role, name: str | None) -> Choice:
    return advisor.choices.choose(role, None if name is None else check_model_name(name))


def _message(message: openai_schema.ChatMessage) -> Message:
    # "developer" is OpenAI's newer word for the same.
    return Message("system" if message.role == "developer" else message.role, message.text)


def _wish(asked: openai_schema.Sampling, new_tokens: int | None, job: Job[Any]) -> Wish:
    return Wish(
        new_tokens=new_tokens,
        temperature=asked.temperature or 0.0,
        top_p=asked.top_p or 1.0,
        seed=asked.seed or 0,
        stop_texts=asked.stop_texts,
        is_cancelled=job.is_cancelled,
        deadline=job.deadline,
    )


def _wants_usage(asked: openai_schema.Sampling) -> bool:
    return bool(asked.stream_options and asked.stream_options.include_usage)


def _model_object(choice: Choice) -> dict[str, Any]:
    made = choice.adapter.stat().st_mtime if choice.adapter else 0
    return {
        "id": choice.name,
        "object": "model",
        "created": int(made),
        "owned_by": "the_block_llm",
        "role": choice.profile.role,
    }
