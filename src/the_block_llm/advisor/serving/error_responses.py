"""HTTP responses for errors, in the format of OpenAI."""

import re
from http import HTTPStatus
from typing import Any, Final

import torch
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from the_block_llm.advisor.serving.openai_schema import ErrorBody, ErrorResponse
from the_block_llm.advisor.serving.request_queue import (
    QueueFullError,
    QueueTimeoutError,
    ShuttingDownError,
)
from the_block_llm.errors import (
    AdapterError,
    BlockError,
    ModelUnavailableError,
    ProfileError,
    PromptError,
    RoleError,
    TableError,
)


class ClientDisconnectedError(Exception):
    """The client disconnected before the response was sent."""


class AnswerTimeoutError(Exception):
    """The answer took longer than the timeout."""


ERROR_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorResponse, "description": description}
    for status, description in (
        (400, "The prompt is empty or too long, or the model has another role."),
        (401, "An API key is required."),
        (403, "The host name is not one of this machine."),
        (404, "There is no such model or source."),
        (408, "The request body was sent too slowly."),
        (413, "The request body is too large."),
        (422, "A field is invalid."),
        (429, "The queue is full."),
        (503, "Queue timeout, the model cannot be loaded, or the server is shutting down."),
        (504, "The answer took too long."),
    )
}
# Subclasses before their base class.
_STATUS_CODES: Final[tuple[tuple[type[Exception], int, str], ...]] = (
    (PromptError, 400, "bad_prompt"),
    (RoleError, 400, "wrong_model"),
    (ProfileError, 404, "model_not_found"),
    (AdapterError, 404, "model_not_found"),
    (ModelUnavailableError, 503, "model_unavailable"),
    (TableError, 503, "not_ingested"),
    (BlockError, 503, "unavailable"),
    (QueueFullError, 429, "busy"),
    (QueueTimeoutError, 503, "waited_too_long"),
    (ShuttingDownError, 503, "stopping"),
    (AnswerTimeoutError, 504, "overtime"),
    (ClientDisconnectedError, 499, "gone"),
    (torch.OutOfMemoryError, 503, "out_of_memory"),
)
_MESSAGES: Final[dict[type[Exception], str]] = {
    QueueFullError: "The queue is full (advisor.serve.max_queued). Retry later.",
    QueueTimeoutError: (
        "The request was queued longer than advisor.serve.queue_timeout_s. Retry later."
    ),
    ShuttingDownError: "The server is shutting down.",
    AnswerTimeoutError: (
        "The answer took longer than advisor.serve.answer_timeout_s. Request fewer tokens."
    ),
    ClientDisconnectedError: "The client disconnected.",
    torch.OutOfMemoryError: "The device does not have enough memory for a prompt of this length.",
}
_ROUTE_ERRORS: Final = {404: "unknown_url", 405: "method_not_supported"}
# pydantic adds the member of a union, such as "str" or "list[TextContentPart]", to a field's path.
_UNION_MEMBER: Final = re.compile(r"(?:str|int|float|bool)$|(?:list|function)\W")
HANDLED_ERRORS: Final[tuple[type[Exception], ...]] = (
    *(error_type for error_type, _, _ in _STATUS_CODES),
    RequestValidationError,
    HTTPException,
)


def error_response(error: Exception, request_line: str) -> JSONResponse:
    """Return the response for an error; any other than :data:`HANDLED_ERRORS` is a 500.

    Args:
        error: The error.
        request_line: Method and path of the request.
    """
    status, body = error_body(error)
    headers = {"retry-after": "5"} if status in {429, 503} else {}
    if isinstance(error, HTTPException):
        headers |= error.headers or {}
        # The router's own errors name neither.
        if error.detail == HTTPStatus(status).phrase:
            body = body.model_copy(
                update={
                    "message": f"{request_line}: {error.detail}. /openapi.json lists the routes.",
                    "code": _ROUTE_ERRORS.get(status, body.code),
                }
            )
    return JSONResponse({"error": body.model_dump()}, status_code=status, headers=headers)


def error_body(error: Exception) -> tuple[int, ErrorBody]:
    """Return status and body for an error."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        path = [str(part) for part in first["loc"] if part != "body"]
        field = ".".join(part for part in path if not _UNION_MEMBER.match(part))
        message = f"{field}: {first['msg']}" if field else str(first["msg"])
        return 422, ErrorBody(
            message=message, type="invalid_request_error", code="bad_field", param=field or None
        )
    if isinstance(error, HTTPException):
        return error.status_code, ErrorBody(
            message=str(error.detail), type="invalid_request_error", code="bad_request"
        )
    for error_type, status, code in _STATUS_CODES:
        if isinstance(error, error_type):
            message = _MESSAGES.get(error_type) or str(error)
            family = "invalid_request_error" if status < 429 else "server_error"
            return status, ErrorBody(message=message, type=family, code=code)
    return 500, ErrorBody(message="Internal server error.", type="server_error", code="failed")
