"""Errors as HTTP replies, in OpenAI's form with the status that says what to do."""

from typing import Any, Final

import torch
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from the_block_llm.advisor.serving.openai_schema import ErrorBody, ErrorReply
from the_block_llm.advisor.serving.request_queue import BusyError, StoppingError, WaitedTooLongError
from the_block_llm.errors import (
    AdapterError,
    BlockError,
    ModelUnavailableError,
    ProfileError,
    PromptError,
    RoleError,
    TableError,
)


class GoneError(Exception):
    """The client went away before there was anything to send."""


class OvertimeError(Exception):
    """The answer took longer than the server allows."""


ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorReply, "description": about}
    for status, about in (
        (400, "The prompt is empty or too long, or the model cannot do this."),
        (401, "A key is needed."),
        (403, "Not a name of this machine."),
        (404, "No such model or source."),
        (408, "The request came too slowly."),
        (413, "The request is too long."),
        (422, "A field is wrong."),
        (429, "Too many wait already."),
        (503, "The turn did not come in time, the model cannot be loaded, or the server stops."),
        (504, "The answer took too long."),
    )
}
# More special kinds first.
_STATUS: Final[tuple[tuple[type[Exception], int, str], ...]] = (
    (PromptError, 400, "bad_prompt"),
    (RoleError, 400, "wrong_model"),
    (ProfileError, 404, "model_not_found"),
    (AdapterError, 404, "model_not_found"),
    (ModelUnavailableError, 503, "model_unavailable"),
    (TableError, 503, "not_ingested"),
    (BlockError, 503, "unavailable"),
    (BusyError, 429, "busy"),
    (WaitedTooLongError, 503, "waited_too_long"),
    (StoppingError, 503, "stopping"),
    (OvertimeError, 504, "overtime"),
    (GoneError, 499, "gone"),
    (torch.OutOfMemoryError, 503, "out_of_memory"),
)
_SAID: Final[dict[type[Exception], str]] = {
    BusyError: "So many requests wait already that this one was not taken. Try again later.",
    WaitedTooLongError: "The turn of this request did not come in time. Try again later.",
    StoppingError: "The server is being stopped.",
    OvertimeError: (
        "The answer took longer than advisor.serve.answer_timeout_s. Ask for fewer tokens."
    ),
    GoneError: "The client went away.",
    torch.OutOfMemoryError: "The device has too little memory for a prompt of this length.",
}
HANDLED: Final[tuple[type[Exception], ...]] = (
    *(kind for kind, _, _ in _STATUS),
    RequestValidationError,
    HTTPException,
)


def error_reply(error: Exception) -> JSONResponse:
    """The reply for any error of :data:`HANDLED`; others are faults of ours, and 500."""
    status, body = error_body(error)
    headers = {"retry-after": "5"} if status in {429, 503} else None
    return JSONResponse({"error": body.model_dump()}, status_code=status, headers=headers)


def error_body(error: Exception) -> tuple[int, ErrorBody]:
    """Status and message of an error."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part != "body")
        said = f"{field}: {first['msg']}" if field else str(first["msg"])
        return 422, ErrorBody(
            message=said, type="invalid_request_error", code="bad_field", param=field or None
        )
    if isinstance(error, HTTPException):
        return error.status_code, ErrorBody(
            message=str(error.detail), type="invalid_request_error", code="bad_request"
        )
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            said = _SAID.get(kind) or str(error)
            family = "invalid_request_error" if status < 429 else "server_error"
            return status, ErrorBody(message=said, type=family, code=code)
    return 500, ErrorBody(message="The server failed.", type="server_error", code="failed")
