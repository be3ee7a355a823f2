"""The HTTP API with the OpenAI client and plain HTTP, against a real server on loopback."""

import concurrent.futures
import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest
from tests.builders.advised_repository import SHAS, advisor_parameters
from tests.builders.advisor_server import serve_in_thread

from the_block_llm.advisor import advisor as advisor_module
from the_block_llm.advisor.advisor import Advisor
from the_block_llm.advisor.output.streaming import StreamResult

QUESTION = [{"role": "user", "content": "Who tallies votes?"}]
CHAT = "/v1/chat/completions"
ANSWER = "It is in [src/ledger.rs:3], not in [src/made_up.rs:9]; see [1c0ffee0] and `tally_votes`."


@pytest.fixture(scope="module")
def address(advisor):
    with serve_in_thread(advisor) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def scripted(monkeypatch):
    """Replace the model by a function that streams a given text in chunks."""

    def script(text=ANSWER, seconds_per_chunk=0.0, chunk_characters=6):
        def stream(model, tokenizer, prompt, sampling, on_text, *, is_cancelled, deadline, **_):
            for number, start in enumerate(range(0, len(text), chunk_characters)):
                if is_cancelled():
                    script.cancelled.set()
                    return StreamResult(number, "cancelled")
                if deadline is not None and time.monotonic() > deadline:
                    return StreamResult(number, "time")
                on_text(text[start : start + chunk_characters])
                time.sleep(seconds_per_chunk)
            return StreamResult(len(text), "stop")

        monkeypatch.setattr(advisor_module, "stream_text", stream)
        return script

    script.cancelled = threading.Event()
    return script


def metric(address, name):
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_chat_completion(client):
    reply = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=5)
    assert reply.model == "tiny@2026-01-01T00.00.00Z"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason in {"stop", "length"}
    assert reply.usage.completion_tokens <= 5
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.passages[0]["source"].startswith("src/")


def test_streamed_chat_equals_the_complete_one(client):
    options = {"model": "tiny@base", "messages": QUESTION, "max_tokens": 20}
    complete = client.chat.completions.create(**options)
    stream = list(
        client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    chunks = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(chunks) == complete.choices[0].message.content
    assert stream[0].choices[0].delta.role == "assistant"
    assert stream[-2].choices[0].finish_reason == complete.choices[0].finish_reason
    assert stream[-1].usage == complete.usage
    assert len({chunk.id for chunk in stream}) == 1


def test_citations_are_checked_with_and_without_streaming(client, scripted):
    scripted()
    annotated = ANSWER.replace("src/made_up.rs:9", "src/made_up.rs:9 (not found)")
    complete = client.chat.completions.create(model="tiny", messages=QUESTION)
    assert complete.choices[0].message.content == annotated
    assert [(c["text"], c["exists"]) for c in complete.citations] == [
        ("src/ledger.rs:3", True), ("src/made_up.rs:9", False), ("1c0ffee0", True),
        ("tally_votes", True),
    ]  # fmt: skip
    stream = list(client.chat.completions.create(model="tiny", messages=QUESTION, stream=True))
    chunks = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(chunks) == annotated
    citations = [chunk.citation for chunk in stream if getattr(chunk, "citation", None)]
    assert [c["target"] for c in citations] == ["src/ledger.rs", None, SHAS[0], None]


def test_fill_in_the_middle_completion(client):
    options = {"model": "tiny-coder@base", "max_tokens": 6}
    with_suffix = client.completions.create(**options, prompt="fn a(", suffix=") {}")
    with_fim_tokens = client.completions.create(
        **options, prompt="<fim_prefix>fn a(<fim_suffix>) {}<fim_middle>"
    )
    assert with_suffix.usage.prompt_tokens == len("fn a() {}") + 3
    assert with_fim_tokens.choices[0].text == with_suffix.choices[0].text
    with_other_files = client.completions.create(
        **options, prompt="<file_sep>b.rs\nx<file_sep><fim_prefix>fn a(<fim_suffix>) {}<fim_middle>"
    )
    assert with_other_files.usage.prompt_tokens == len("b.rs\nx\nfn a() {}") + 3
    stream = client.completions.create(**options, prompt="fn a(", suffix=") {}", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == with_suffix.choices[0].text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "Known: tiny"),
        ({"model": "/etc/passwd"}, openai.NotFoundError, "no model"),
        ({"model": "tiny@1999"}, openai.NotFoundError, "no adapter"),
        ({"model": "tiny-coder@base"}, openai.BadRequestError, "Use tiny instead"),
        ({"messages": [{"role": "user", "content": " "}]}, openai.BadRequestError, "empty"),
        ({"messages": [{"role": "user", "content": "x" * 9000}]}, openai.BadRequestError, "1,500"),
        ({"messages": []}, openai.UnprocessableEntityError, "messages"),
        ({"messages": [{"role": "god", "content": "x"}]}, openai.UnprocessableEntityError, "role"),
        ({"temperature": 9}, openai.UnprocessableEntityError, "temperature"),
        ({"temperature": "0.5"}, openai.UnprocessableEntityError, "temperature"),
        ({"max_tokens": True}, openai.UnprocessableEntityError, "max_tokens"),
        ({"n": 3}, openai.UnprocessableEntityError, "n:"),
        ({"tools": [{"type": "function"}]}, openai.UnprocessableEntityError, "tools"),
        ({"stop": ["a", "b", "c", "d", "e"]}, openai.UnprocessableEntityError, "four"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_error_messages_name_the_remedy(client, options, error, message, stream):
    with pytest.raises(error, match=message):
        client.chat.completions.create(
            **{"model": "tiny", "messages": QUESTION, "stream": stream, **options}
        )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422), (b"[]", 422), (b"", 422), (b'{"messages": null}', 422),
        (b'"' + b"x" * 70_000 + b'"', 413), (b"\xff\xfe", 422),
        # A lone surrogate: valid JSON, but not Unicode.
        (rb'{"messages": [{"role": "user", "content": "a\ud800"}]}', 400),
        (
            rb'{"messages": [{"role": "user", "content": [{"type": "text", "text": "\udfff"}]}]}',
            400,
        ),
        (rb'{"messages": [{"role": "\ud800", "content": "a"}]}', 422),
        (rb'{"model": "\ud800", "messages": [{"role": "user", "content": "a"}]}', 422),
    ],
)  # fmt: skip
def test_malformed_bodies_are_refused(address, body, status):
    reply = httpx.post(address + CHAT, content=body, headers={"content-type": "application/json"})
    assert reply.status_code == status
    assert reply.json()["error"]["message"]


def test_chunked_body_is_limited_in_size(address):
    def chunks():
        for _ in range(200):
            yield b" " * 1000

    reply = httpx.post(
        address + CHAT, content=chunks(), headers={"content-type": "application/json"}
    )
    assert reply.status_code == 413


def test_cross_site_requests_are_refused(address):
    # Without a CORS preflight another site can only send these content types.
    body = json.dumps({"messages": QUESTION})
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        reply = httpx.post(address + CHAT, content=body, headers={"content-type": content_type})
        assert reply.status_code == 422
    # DNS rebinding: the host name of the site resolves to this address.
    for host in ("evil.example", "127.0.0.1.evil.example", "", "evil.example:80"):
        assert httpx.get(address + "/v1/models", headers={"host": host}).status_code == 403
    assert httpx.get(address + "/v1/models", headers={"host": "localhost:1"}).status_code == 200
    assert "access-control-allow-origin" not in httpx.get(address + "/v1/models").headers


OUTSIDE = ["../../../etc/passwd", "/etc/passwd", "src/../src/ledger.rs", "..%2f..%2fetc%2fpasswd"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_only_files_of_the_repository_are_served(address, path):
    reply = httpx.get(f"{address}/v1/sources/file", params={"path": path})
    assert reply.status_code == 404
    assert "root:" not in reply.text
    assert httpx.get(f"{address}/{path}").status_code in {404, 405}


def test_cited_files_and_commits_are_served(address):
    file = httpx.get(f"{address}/v1/sources/file", params={"path": "src/ledger.rs", "line": 3})
    assert file.json()["lines"][2] == "fn apply_block() {"
    assert file.json()["first_line"] == 1
    commit = httpx.get(f"{address}/v1/sources/commit", params={"sha": SHAS[0]}).json()
    assert "Start the ledger" in commit["lines"]
    assert "src/ledger.rs" in commit["lines"]


def test_key_is_required_if_set(advisor):
    key = "s" * 20
    with serve_in_thread(advisor, key=key) as address:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": key}):
            for path in ("/v1/models", "/metrics", "/v1/sources/file", "/openapi.json"):
                assert httpx.get(address + path, headers=headers).status_code == 401
        assert httpx.get(address + "/health").status_code == 200
        assert httpx.get(address + "/").status_code == 200
        with openai.OpenAI(base_url=f"{address}/v1", api_key=key) as client:
            assert list(client.models.list())
        with (
            openai.OpenAI(base_url=f"{address}/v1", api_key="other") as client,
            pytest.raises(openai.AuthenticationError, match="THE_BLOCK_API_KEY"),
        ):
            client.models.list()


def test_disconnect_cancels_the_answer(address, scripted):
    scripted("word " * 4000, seconds_per_chunk=0.02)
    before = metric(address, "block_cancelled_total")
    with httpx.stream("POST", address + CHAT, json={"messages": QUESTION, "stream": True}) as reply:
        next(reply.iter_lines())
    assert scripted.cancelled.wait(5)
    scripted.cancelled.clear()
    # The same without streaming.
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(address + CHAT, json={"messages": QUESTION}, timeout=0.5)
    assert scripted.cancelled.wait(5)
    deadline = time.monotonic() + 5
    while httpx.get(f"{address}/health").json()["running"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert httpx.get(f"{address}/health").json()["running"] == 0
    assert metric(address, "block_cancelled_total") == before + 2


def test_concurrent_clients_get_an_answer_or_status_429(address, client, scripted):
    scripted("word " * 20, seconds_per_chunk=0.005)
    start = threading.Barrier(50)

    def ask(number):
        start.wait()
        try:
            reply = client.chat.completions.create(
                model="tiny", messages=QUESTION, stream=bool(number % 2), timeout=60
            )
            return (
                "".join(c.choices[0].delta.content or "" for c in reply)
                if number % 2
                else (reply.choices[0].message.content)
            )
        except openai.RateLimitError as error:
            return None if error.response.headers.get("retry-after") else "no retry-after header"

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    answered = [answer for answer in answers if answer is not None]
    assert set(answered) == {"word " * 20}
    assert 5 <= len(answered) < 50, "one runs and four are queued at a time"
    assert httpx.get(f"{address}/health").json() == {"status": "ok", "waiting": 0, "running": 0}


def test_queue_and_answer_timeouts(data, scripted):
    scripted("word " * 4000, seconds_per_chunk=0.02)
    limits = {
        "max_body_kib": 64,
        "max_queued": 4,
        "queue_timeout_s": 0.3,
        "answer_timeout_s": 1.0,
        "shutdown_timeout_s": 1,
    }
    with serve_in_thread(Advisor(advisor_parameters(data, serve=limits))) as address:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            first = pool.submit(httpx.post, address + CHAT, json={"messages": QUESTION})
            time.sleep(0.2)
            second = httpx.post(address + CHAT, json={"messages": QUESTION})
            assert (second.status_code, second.json()["error"]["code"]) == (503, "waited_too_long")
            assert (first.result().status_code, first.result().json()["error"]["code"]) == (
                504, "overtime",
            )  # fmt: skip
        stream = httpx.post(address + CHAT, json={"messages": QUESTION, "stream": True})
        last = [line for line in stream.text.splitlines() if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "overtime"


def test_shutdown_cancels_answers_and_refuses_connections(data, scripted):
    scripted("word " * 40_000, seconds_per_chunk=0.02)
    has_started = threading.Event()

    def read_stream(address):
        body = {"messages": QUESTION, "stream": True}
        # The stream ends with an error event, or the connection is closed first.
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream("POST", address + CHAT, json=body, timeout=30) as reply,
        ):
            for _ in reply.iter_lines():
                has_started.set()

    with serve_in_thread(Advisor(advisor_parameters(data))) as address:
        thread = threading.Thread(target=read_stream, args=(address,))
        thread.start()
        assert has_started.wait(10)
        started = time.monotonic()
    assert time.monotonic() - started < 10
    thread.join(5)
    assert not thread.is_alive()
    assert scripted.cancelled.is_set()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


def test_incomplete_request_does_not_block_others(address):
    with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1]))) as slow:
        slow.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{{".encode()
        )
        assert httpx.get(f"{address}/health", timeout=5).status_code == 200


def test_memory_does_not_grow(address, client):
    def resident_mib():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def ask(n):
        for _ in range(n):
            client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=3)

    ask(15)
    before = resident_mib()
    ask(40)
    assert resident_mib() - before < 20, "MiB after forty answers"


def test_metrics_count_requests_and_tokens(address, client):
    before = metric(address, 'block_tokens_total{kind="written",model="tiny@base"}')
    reply = client.chat.completions.create(model="tiny@base", messages=QUESTION, max_tokens=4)
    after = metric(address, 'block_tokens_total{kind="written",model="tiny@base"}')
    assert after - before == reply.usage.completion_tokens
    assert metric(address, 'block_requests_total{route="/v1/chat/completions",status="200"}') > 0
