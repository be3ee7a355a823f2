"""The official client and plain HTTP against a real server on loopback."""

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
from tests.builders.advisor_server import serving

from the_block_llm.advisor import advisor as advisor_module
from the_block_llm.advisor.advisor import Advisor
from the_block_llm.advisor.output.streaming import StreamResult

QUESTION = [{"role": "user", "content": "Who tallies votes?"}]
CHAT = "/v1/chat/completions"
SCRIPT = "It is in [src/ledger.rs:3], not in [src/made_up.rs:9]; see [1c0ffee0] and `tally_votes`."


@pytest.fixture(scope="module")
def address(advisor):
    with serving(advisor) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def scripted(monkeypatch):
    """The model writes what the test wants, a piece at a time."""

    def write(text=SCRIPT, seconds_a_piece=0.0, tokens=6):
        def stream(model, tokenizer, prompt, decoding, on_text, *, is_cancelled, deadline, **_):
            write.prompts.append(tokenizer.decode(prompt))
            for number, at in enumerate(range(0, len(text), tokens)):
                if is_cancelled():
                    write.cancelled.set()
                    return StreamResult(number, "cancelled")
                if deadline is not None and time.monotonic() > deadline:
                    return StreamResult(number, "time")
                on_text(text[at : at + tokens])
                time.sleep(seconds_a_piece)
            return StreamResult(len(text), "stop")

        monkeypatch.setattr(advisor_module, "stream_text", stream)
        return write

    write.cancelled = threading.Event()
    write.prompts = []
    return write


def metric(address, name):
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_chat(client):
    reply = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=5)
    assert reply.model == "tiny@2026-01-01T00.00.00Z"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason in {"stop", "length"}
    assert reply.usage.completion_tokens <= 5
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.passages[0]["source"].startswith("src/")


def test_a_stream_is_the_same_answer_in_pieces(client):
    options = {"model": "tiny@base", "messages": QUESTION, "max_tokens": 20}
    whole = client.chat.completions.create(**options)
    stream = list(
        client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert stream[0].choices[0].delta.role == "assistant"
    assert stream[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert stream[-1].usage == whole.usage
    assert len({chunk.id for chunk in stream}) == 1


def test_citations_are_checked_in_both_forms(client, scripted):
    scripted()
    marked = SCRIPT.replace("src/made_up.rs:9", "src/made_up.rs:9 (not found)")
    whole = client.chat.completions.create(model="tiny", messages=QUESTION)
    assert whole.choices[0].message.content == marked
    assert [(c["text"], c["exists"]) for c in whole.citations] == [
        ("src/ledger.rs:3", True), ("src/made_up.rs:9", False), ("1c0ffee0", True),
        ("tally_votes", True),
    ]  # fmt: skip
    stream = list(client.chat.completions.create(model="tiny", messages=QUESTION, stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == marked
    cited = [chunk.citation for chunk in stream if getattr(chunk, "citation", None)]
    assert [c["target"] for c in cited] == ["src/ledger.rs", None, SHAS[0], None]


def test_completion_in_the_middle(client):
    options = {"model": "tiny-coder@base", "max_tokens": 6}
    given = client.completions.create(**options, prompt="fn a(", suffix=") {}")
    spelled = client.completions.create(
        **options, prompt="<fim_prefix>fn a(<fim_suffix>) {}<fim_middle>"
    )
    assert given.usage.prompt_tokens == len("fn a() {}") + 3
    assert spelled.choices[0].text == given.choices[0].text
    among_others = client.completions.create(
        **options, prompt="<file_sep>b.rs\nx<file_sep><fim_prefix>fn a(<fim_suffix>) {}<fim_middle>"
    )
    assert among_others.usage.prompt_tokens == len("b.rs\nx\nfn a() {}") + 3
    stream = client.completions.create(**options, prompt="fn a(", suffix=") {}", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == given.choices[0].text


def test_models(client):
    names = [model.id for model in client.models.list()]
    assert names == ["tiny@2026-01-01T00.00.00Z", "tiny@base", "tiny-coder@base"]


@pytest.mark.parametrize(
    ("options", "error", "said"),
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
def test_errors_say_what_to_do(client, options, error, said, stream):
    with pytest.raises(error, match=said):
        client.chat.completions.create(
            **{"model": "tiny", "messages": QUESTION, "stream": stream, **options}
        )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422), (b"[]", 422), (b"", 422), (b'{"messages": null}', 422),
        (b'"' + b"x" * 70_000 + b'"', 413), (b"\xff\xfe", 422),
        # Half of a surrogate pair: valid JSON, no Unicode.
        (rb'{"messages": [{"role": "user", "content": "a\ud800"}]}', 400),
        (
            rb'{"messages": [{"role": "user", "content": [{"type": "text", "text": "\udfff"}]}]}',
            400,
        ),
        (rb'{"messages": [{"role": "\ud800", "content": "a"}]}', 422),
        (rb'{"model": "\ud800", "messages": [{"role": "user", "content": "a"}]}', 422),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(address, body, status):
    reply = httpx.post(address + CHAT, content=body, headers={"content-type": "application/json"})
    assert reply.status_code == status
    assert reply.json()["error"]["message"]


def test_a_body_without_a_length_is_measured_as_it_comes(address):
    def pieces():
        for _ in range(200):
            yield b" " * 1000

    reply = httpx.post(
        address + CHAT, content=pieces(), headers={"content-type": "application/json"}
    )
    assert reply.status_code == 413


def test_another_site_cannot_ask_through_the_readers_browser(address):
    # A form or a script of another site can only send these types without being asked first.
    body = json.dumps({"messages": QUESTION})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        reply = httpx.post(address + CHAT, content=body, headers={"content-type": kind})
        assert reply.status_code == 422
    # DNS rebinding: the site's own name, made to point here.
    for host in ("evil.example", "127.0.0.1.evil.example", "", "evil.example:80"):
        assert httpx.get(address + "/v1/models", headers={"host": host}).status_code == 403
    assert httpx.get(address + "/v1/models", headers={"host": "localhost:1"}).status_code == 200
    assert "access-control-allow-origin" not in httpx.get(address + "/v1/models").headers


OUTSIDE = ["../../../etc/passwd", "/etc/passwd", "src/../src/ledger.rs", "..%2f..%2fetc%2fpasswd"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_nothing_but_the_repository_is_read(address, path):
    reply = httpx.get(f"{address}/v1/sources/file", params={"path": path})
    assert reply.status_code == 404
    assert "root:" not in reply.text
    assert httpx.get(f"{address}/{path}").status_code in {404, 405}


def test_sources_behind_citations(address):
    file = httpx.get(f"{address}/v1/sources/file", params={"path": "src/ledger.rs", "line": 3})
    assert file.json()["lines"][2] == "fn apply_block() {"
    assert file.json()["first_line"] == 1
    commit = httpx.get(f"{address}/v1/sources/commit", params={"sha": SHAS[0]}).json()
    assert "Start the ledger" in commit["lines"]
    assert "src/ledger.rs" in commit["lines"]


def test_a_key_where_one_is_set(advisor):
    key = "s" * 20
    with serving(advisor, key=key) as address:
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


def test_a_client_that_goes_away_ends_its_answer(address, scripted):
    scripted("word " * 4000, seconds_a_piece=0.02)
    before = metric(address, "block_cancelled_total")
    with httpx.stream("POST", address + CHAT, json={"messages": QUESTION, "stream": True}) as reply:
        next(reply.iter_lines())
    assert scripted.cancelled.wait(5)
    scripted.cancelled.clear()
    # The same where the answer was to come whole.
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(address + CHAT, json={"messages": QUESTION}, timeout=0.5)
    assert scripted.cancelled.wait(5)
    deadline = time.monotonic() + 5
    while httpx.get(f"{address}/health").json()["running"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert httpx.get(f"{address}/health").json()["running"] == 0
    assert metric(address, "block_cancelled_total") == before + 2


def test_fifty_at_once_get_an_answer_or_a_clean_refusal(address, client, scripted):
    scripted("word " * 20, seconds_a_piece=0.005)
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
            return (
                None if error.response.headers.get("retry-after") else "no word when to come back"
            )

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    answered = [answer for answer in answers if answer is not None]
    assert set(answered) == {"word " * 20}
    assert 5 <= len(answered) < 50, "one runs, four wait, and the next when they are through"
    assert httpx.get(f"{address}/health").json() == {"status": "ok", "waiting": 0, "running": 0}


def test_limits_of_time(data, scripted):
    scripted("word " * 4000, seconds_a_piece=0.02)
    limits = {
        "max_body_kib": 64,
        "max_queued": 4,
        "queue_timeout_s": 0.3,
        "answer_timeout_s": 1.0,
        "shutdown_timeout_s": 1,
    }
    with serving(Advisor(advisor_parameters(data, serve=limits))) as address:
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


def test_stopping_ends_answers_and_lets_nothing_begin(data, scripted):
    scripted("word " * 40_000, seconds_a_piece=0.02)
    has_begun = threading.Event()

    def listen(address):
        asked = {"messages": QUESTION, "stream": True}
        # Cut off or told so, depending on who is faster; in either case it ends.
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream("POST", address + CHAT, json=asked, timeout=30) as reply,
        ):
            for _ in reply.iter_lines():
                has_begun.set()

    with serving(Advisor(advisor_parameters(data))) as address:
        thread = threading.Thread(target=listen, args=(address,))
        thread.start()
        assert has_begun.wait(10)
        started = time.monotonic()
    assert time.monotonic() - started < 10
    thread.join(5)
    assert not thread.is_alive()
    assert scripted.cancelled.is_set()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


def test_half_a_request_holds_up_nobody(address):
    with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1]))) as slow:
        slow.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{{".encode()
        )
        assert httpx.get(f"{address}/health", timeout=5).status_code == 200


def test_memory_stays_flat(address, client):
    def resident():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def ask(n):
        for _ in range(n):
            client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=3)

    ask(15)
    before = resident()
    ask(40)
    assert resident() - before < 20, "MiB after forty answers"


def test_figures_count_what_was_answered(address, client):
    before = metric(address, 'block_tokens_total{kind="written",model="tiny@base"}')
    reply = client.chat.completions.create(model="tiny@base", messages=QUESTION, max_tokens=4)
    after = metric(address, 'block_tokens_total{kind="written",model="tiny@base"}')
    assert after - before == reply.usage.completion_tokens
    assert metric(address, 'block_requests_total{route="/v1/chat/completions",status="200"}') > 0
