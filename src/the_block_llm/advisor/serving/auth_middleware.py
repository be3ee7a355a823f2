"""Checks of every request before it is parsed: host name, API key, body size."""

import asyncio
import hmac
import json
from collections.abc import MutableMapping
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from the_block_llm.advisor.serving.access import KEY_VARIABLE, is_loopback

# The page contains nothing secret, and a monitor must be able to check the health.
_PUBLIC_PATHS: Final = frozenset({"/", "/page.js", "/page.css", "/health"})
_BODY_TIMEOUT_S: Final = 30.0


class AuthMiddleware:
    """Rejects requests without the key, with a foreign host name, or with a large body."""

    def __init__(
        self, app: ASGIApp, *, key: str | None, loopback_only: bool, max_body_bytes: int
    ) -> None:
        """Wrap ``app``.

        Args:
            app: The application to protect.
            key: API key that clients must send, except for the page and ``/health``; None
                disables the check.
            loopback_only: Accept only host names of this machine. This rejects web pages that
                resolve their own host name to this address (DNS rebinding).
            max_body_bytes: Maximum size of a request body.
        """
        self._app = app
        self._key = key
        self._loopback_only = loopback_only
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        if self._loopback_only and not is_loopback(_host_name(headers.get("host", ""))):
            await send_error(
                send, 403, "This server accepts only host names of its own machine.", "host"
            )
            return
        if (
            self._key is not None
            and scope["path"] not in _PUBLIC_PATHS
            and not self._has_key(headers)
        ):
            await send_error(
                send, 401,
                f"An API key is required: the one in {KEY_VARIABLE} of the server, sent as "
                "`Authorization: Bearer …`.", "invalid_api_key",
                {"www-authenticate": "Bearer"},
            )  # fmt: skip
            return
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            await self._send_too_large(send)
            return
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                body = await self._read_body(receive)
        except TimeoutError:
            await send_error(
                send, 408, f"The request body took longer than {_BODY_TIMEOUT_S:.0f} s.", "timeout"
            )
            return
        if body is None:
            await self._send_too_large(send)
            return
        await self._app(scope, _replay_body(body, receive), send)

    def _has_key(self, headers: MutableMapping[str, str]) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        is_equal = hmac.compare_digest(key.strip().encode(), str(self._key).encode())
        return scheme.lower() == "bearer" and is_equal

    async def _read_body(self, receive: Receive) -> bytes | None:
        """Return the complete body, or None if it is too large."""
        chunks: list[bytes] = []
        size_bytes = 0
        while True:
            message = await receive()
            chunk = message.get("body", b"")
            size_bytes += len(chunk)
            if size_bytes > self._max_body_bytes:
                return None
            chunks.append(chunk)
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                return b"".join(chunks)

    async def _send_too_large(self, send: Send) -> None:
        await send_error(
            send, 413,
            f"The request body is larger than {self._max_body_bytes:,} bytes. Shorten it, or raise "
            "advisor.serve.max_body_kib.", "body_too_large", {"connection": "close"},
        )  # fmt: skip


async def send_error(
    send: Send, status: int, message: str, code: str, headers: dict[str, str] | None = None
) -> None:
    """Send an error response in the format of OpenAI."""
    error_type = "authentication_error" if status == 401 else "invalid_request_error"
    error = {"message": message, "type": error_type, "code": code, "param": None}
    body = json.dumps({"error": error}).encode()
    all_headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **(headers or {}),
    }
    raw_headers = [(name.encode(), value.encode()) for name, value in all_headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw_headers})
    await send({"type": "http.response.body", "body": body})


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _host_name(host: str) -> str:
    """Strip the port from a Host header.

    >>> [_host_name(host) for host in ("localhost:80", "[::1]:80", "::1", "")]
    ['localhost', '[::1]', '::1', '']
    """
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a receive function that yields ``body`` first, then what ``receive`` returns.

    After the body, ``receive`` reports only the disconnect of the client.
    """
    is_replayed = False

    async def replay() -> Message:
        nonlocal is_replayed
        if is_replayed:
            return await receive()
        is_replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
