"""What every request passes before anything reads it: address, key, size."""

import asyncio
import hmac
import json
from collections.abc import MutableMapping
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from the_block_llm.advisor.serving.access import KEY_VARIABLE, is_loopback

# The page itself holds nothing secret, and a monitor must see that the server is there.
_OPEN: Final = frozenset({"/", "/page.js", "/page.css", "/health"})
_BODY_S: Final = 30.0


class Guard:
    """Refuses strangers, names that a web page made up for this machine, and long bodies."""

    def __init__(
        self, app: ASGIApp, *, key: str | None, only_loopback: bool, most_bytes: int
    ) -> None:
        """Stand before ``app``.

        Args:
            app: What is guarded.
            key: Asked for wherever it is set, except for the page and ``/health``.
            only_loopback: Answer only to names of this machine: a web page that lets its own
                name point here (DNS rebinding) is refused.
            most_bytes: Longest body.
        """
        self._app = app
        self._key = key
        self._only_loopback = only_loopback
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        if self._only_loopback and not is_loopback(_host_name(headers.get("host", ""))):
            await refuse(send, 403, "This server answers only to names of this machine.", "host")
            return
        if self._key is not None and scope["path"] not in _OPEN and not self._has_key(headers):
            await refuse(
                send, 401,
                f"A key is needed: the one in the server's {KEY_VARIABLE}, sent as "
                "`Authorization: Bearer …`.", "invalid_api_key",
                {"www-authenticate": "Bearer"},
            )  # fmt: skip
            return
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._most_bytes:
            await self._too_large(send)
            return
        try:
            async with asyncio.timeout(_BODY_S):
                body = await self._read(receive)
        except TimeoutError:
            await refuse(send, 408, f"The request took more than {_BODY_S:.0f} s.", "timeout")
            return
        if body is None:
            await self._too_large(send)
            return
        await self._app(scope, _replay(body, receive), send)

    def _has_key(self, headers: MutableMapping[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), str(self._key).encode())
        return scheme.lower() == "bearer" and same

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body, or none where it is too long."""
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._most_bytes:
                return None
            chunks.append(chunk)
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                return b"".join(chunks)

    async def _too_large(self, send: Send) -> None:
        await refuse(
            send, 413,
            f"The request is longer than {self._most_bytes:,} bytes. Shorten it, or raise "
            "advisor.serve.max_body_kib.", "body_too_large", {"connection": "close"},
        )  # fmt: skip


async def refuse(
    send: Send, status: int, message: str, code: str, headers: dict[str, str] | None = None
) -> None:
    """Answer with an error in OpenAI's form."""
    kind = "authentication_error" if status == 401 else "invalid_request_error"
    error = {"message": message, "type": kind, "code": code, "param": None}
    body = json.dumps({"error": error}).encode()
    sent = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    raw = [(name.encode(), value.encode()) for name, value in sent.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _host_name(host: str) -> str:
    """Without the port.

    >>> [_host_name(host) for host in ("localhost:80", "[::1]:80", "::1", "")]
    ['localhost', '[::1]', '::1', '']
    """
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give the body again, once; then whatever comes, which is the client's going away."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
