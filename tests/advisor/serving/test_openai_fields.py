"""Every field of the OpenAI requests: done, ignored as it changes nothing, or refused by name."""

import json
from typing import Any
from urllib.parse import quote

import httpx
import openai
import pytest
from tests.builders.advisor_server import serve_in_thread

from the_block_llm.advisor.serving.openai_schema import ChatRequest, CompletionRequest

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {
        "model": "tiny@base", "max_tokens": 2, "retrieval": False,
        "messages": [{"role": "user", "content": "Who tallies votes?"}],
    },
    COMPLETIONS: {"model": "tiny-coder@base", "max_tokens": 2, "prompt": "fn a("},
}  # fmt: skip
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
# All optional fields of the request objects in OpenAI's specification.
OPENAI_FIELDS = {
    CHAT: (
        "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs",
        "max_completion_tokens", "max_tokens", "metadata", "modalities", "n",
        "parallel_tool_calls", "prediction", "presence_penalty", "prompt_cache_key",
        "prompt_cache_retention", "reasoning_effort", "response_format", "safety_identifier",
        "seed", "service_tier", "stop", "store", "stream", "stream_options", "temperature",
        "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity",
        "web_search_options",
    ),
    COMPLETIONS: (
        "best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n",
        "presence_penalty", "seed", "stop", "stream", "stream_options", "suffix", "temperature",
        "top_p", "user",
    ),
}  # fmt: skip
BOTH_REFUSED: dict[str, list[Any]] = {
    "n": [2, 0, -1, True, "1"],
    "frequency_penalty": [0.5, -2, False],
    "presence_penalty": [1],
    "logit_bias": [{"50": 100}],
    "best_of": [2],
    "temperature": [-0.1, 2.1, "0", True, [], {}],
    "top_p": [-0.1, 1.1, "1"],
    "seed": [0.5, "7", 2**63, True],
    "max_tokens": [0, -1, 1.5, "5", True],
    "stop": [5, [1], [None], {}, list("abcde")],
    "stream": ["yes", 1, "true"],
    "stream_options": [5, {"include_usage": "yes"}],
    "top_k": [1],
    "min_p": [0.1],
    "repetition_penalty": [1.3],
    "stop_token_ids": [[2]],
    "ignore_eos": [True],
    "grammar": ["root ::= [a]"],
    "guided_json": [{}],
    "model": [5, [], "x" * 301],
}
REFUSED: dict[str, dict[str, list[Any]]] = {
    CHAT: BOTH_REFUSED
    | {
        "response_format": [
            {"type": "json_object"}, "json",
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        ],
        "functions": [[FUNCTION]],
        "function_call": [{"name": "f"}],
        "tools": [[{"type": "function", "function": FUNCTION}], 5],
        "tool_choice": ["required", {"type": "function", "function": {"name": "f"}}],
        "logprobs": [True],
        "top_logprobs": [2],
        "modalities": [["audio"], ["text", "audio"]],
        "audio": [{"voice": "alloy", "format": "wav"}],
        "reasoning_effort": ["high"],
        "verbosity": ["low"],
        "web_search_options": [{}],
        "max_completion_tokens": [0, -5, "5"],
        "retrieval": ["no", 1],
        "messages": [
            None, [], "hi", [None], [{"role": "user"}], [{"content": "a"}],
            [{"role": "user", "content": None}], [{"role": "user", "content": 5}],
            [{"role": "tool", "content": "a", "tool_call_id": "1"}],
            [{"role": "function", "name": "f", "content": "a"}],
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            [{"role": "assistant", "content": "a", "tool_calls": [{"id": "1"}]}],
        ],
    },
    COMPLETIONS: BOTH_REFUSED
    | {
        "echo": [True],
        "logprobs": [0, 3],
        "suffix": [5],
        "prompt": [None, "", [], ["a", "b"], [1, 2], [[1, 2]], 5],
    },
}  # fmt: skip
BOTH_ACCEPTED: dict[str, list[Any]] = {
    "n": [1],
    "frequency_penalty": [0, 0.0],
    "presence_penalty": [0],
    "logit_bias": [{}],
    "temperature": [0, 0.7, 2, 1],
    "top_p": [0, 0.5, 1],
    "seed": [0, -1, 2**63 - 1, -(2**63)],
    "max_tokens": [1, 10**9],
    "stop": ["", "x", [], ["a", ""], list("abcd")],
    "stream": [False],
    "stream_options": [{}, {"include_usage": None}, {"include_obfuscation": False}],
    "user": ["ann", "", 5],
    "no_such_field": [1, None, {}],
}
ACCEPTED: dict[str, dict[str, list[Any]]] = {
    CHAT: BOTH_ACCEPTED
    | {
        "response_format": [{"type": "text"}],
        "functions": [[]],
        "function_call": ["none", "auto"],
        "tools": [[]],
        "tool_choice": ["none", "auto"],
        "parallel_tool_calls": [True, False],
        "logprobs": [False],
        "top_logprobs": [0],
        "modalities": [["text"]],
        "metadata": [{"a": "b"}],
        "store": [True, False],
        "service_tier": ["auto", "default"],
        "prompt_cache_key": ["k"],
        "safety_identifier": ["s"],
        "prediction": [{"type": "content", "content": "x"}],
        "max_completion_tokens": [1],
        "retrieval": [False],
        "messages": [
            [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "a"}],
            [{"role": "user", "name": "ann", "content": "a"}],
            [{"role": "user", "content": [{"type": "text", "text": "a"},
                                          {"type": "text", "text": "b"}]}],
            # As the official client sends back a message that it received.
            [{"role": "user", "content": "a"},
             {"role": "assistant", "content": "b", "refusal": None, "annotations": [],
              "audio": None, "function_call": None, "tool_calls": None},
             {"role": "user", "content": "c"}],
        ],
    },
    COMPLETIONS: BOTH_ACCEPTED
    | {"best_of": [1], "echo": [False], "suffix": ["", ")"], "prompt": ["a", ["a"]]},
}  # fmt: skip


@pytest.fixture(scope="module")
def address(advisor):
    with serve_in_thread(advisor) as address:
        yield address


@pytest.fixture
def post(address):
    return lambda path, body: httpx.post(address + path, json=body, timeout=60)


def grid(values: dict[str, dict[str, list[Any]]]) -> list[Any]:
    return [
        pytest.param(path, field, value, id=f"{path[4:8]}-{field}-{json.dumps(value)[:40]}")
        for path, fields in values.items()
        for field, field_values in fields.items()
        for value in field_values
    ]


def assert_openai_error(reply: httpx.Response, statuses: set[int]) -> dict[str, Any]:
    assert reply.status_code in statuses, reply.text
    assert reply.headers["content-type"] == "application/json"
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert error["message"]
    assert error["type"] in {"invalid_request_error", "server_error"}
    return error


def test_the_grid_has_every_field() -> None:
    for path, schema in ((CHAT, ChatRequest), (COMPLETIONS, CompletionRequest)):
        untested = set(OPENAI_FIELDS[path]) - set(REFUSED[path]) - set(ACCEPTED[path])
        # These have no value that would be refused or that is not null.
        assert untested <= {"prompt_cache_retention"}
        added = set(schema.model_fields) - set(REFUSED[path])
        assert added <= {"typical_p", "repeat_penalty", "min_tokens", "json_schema",
                         "guided_regex", "guided_choice", "guided_grammar"}  # fmt: skip


@pytest.mark.parametrize("path", BODIES)
def test_null_is_the_same_as_leaving_a_field_out(post, path):
    plain = post(path, BODIES[path]).json()
    schema = ChatRequest if path == CHAT else CompletionRequest
    fields = {*OPENAI_FIELDS[path], *schema.model_fields} - {"messages", "prompt", "model"}
    for field in sorted(fields):
        body = BODIES[path] | {field: None}
        if field == "max_tokens":
            body |= {"stop": "e"}  # or the answer would take its full length
        reply = post(path, body)
        assert reply.status_code == 200, (field, reply.text)
        if field not in {"max_tokens", "retrieval"}:
            assert reply.json()["choices"] == plain["choices"], field


@pytest.mark.parametrize(("path", "field", "value"), grid(REFUSED))
def test_what_cannot_be_done_is_an_error_that_names_the_field(post, path, field, value):
    for stream in (False, True):
        reply = post(path, BODIES[path] | {"stream": stream} | {field: value})
        error = assert_openai_error(reply, {422, 404} if field == "model" else {422})
        if field == "stop" and value == list("abcde"):
            assert "stop" in error["message"]
        elif field != "model":
            assert error["param"].partition(".")[0] == field
            assert error["message"].startswith(f"{error['param']}: ")


@pytest.mark.parametrize(("path", "field", "value"), grid(ACCEPTED))
def test_harmless_values_are_accepted(post, path, field, value):
    budget = {"stop": ["e", " "]} if value == 10**9 else {}
    reply = post(path, BODIES[path] | budget | {field: value})
    assert reply.status_code == 200, reply.text


def test_top_p_of_zero_takes_the_most_likely_tokens(post):
    greedy = post(CHAT, BODIES[CHAT] | {"max_tokens": 8}).json()["choices"]
    sampled = BODIES[CHAT] | {"max_tokens": 8, "temperature": 2, "seed": 5}
    assert post(CHAT, sampled | {"top_p": 0}).json()["choices"] == greedy
    assert post(CHAT, sampled).json()["choices"] != greedy


def test_models_are_listed_and_found_by_each_name(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        names = [model.id for model in client.models.list()]
        version = "tiny@2026-01-01T00.00.00Z"
        assert names == ["tiny", version, "tiny@base", "tiny-coder@base"]
        for name in names:
            assert client.models.retrieve(name).id == name
            # As editors and shells write it.
            for encoded in (name, quote(name, safe="")):
                found = httpx.get(f"{address}/v1/models/{encoded}").json()
                assert (found["id"], found["object"]) == (name, "model")
        with pytest.raises(openai.NotFoundError, match="no model 'gpt-9'"):
            client.models.retrieve("gpt-9")


@pytest.mark.parametrize(
    "name",
    ["gpt-9", "tiny@1999", "tiny@", "@base", "tiny/base", "meta-llama/Llama-3.1-8B", "/etc/passwd",
     "..%2F..%2Fetc", "%00", "%F0%9F%98%80", "tiny-coder", ""],
)  # fmt: skip
def test_an_unknown_model_is_not_found(address, name):
    error = assert_openai_error(httpx.get(f"{address}/v1/models/{name}"), {404})
    assert error["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", CHAT, 405, "method_not_supported"),
        ("PUT", "/v1/models", 405, "method_not_supported"),
        ("DELETE", "/v1/models/tiny", 405, "method_not_supported"),
        ("POST", "/v1/embeddings", 404, "unknown_url"),
        ("POST", "/v1/responses", 404, "unknown_url"),
        ("GET", "/v1/chat/completions/chatcmpl-1", 404, "unknown_url"),
        ("GET", "/v1", 404, "unknown_url"),
        ("GET", "/nothing/%2e%2e/x", 404, "unknown_url"),
    ],
)
def test_an_unknown_route_is_an_openai_error_that_names_it(address, method, path, status, code):
    reply = httpx.request(method, address + path)
    error = assert_openai_error(reply, {status})
    assert error["code"] == code
    assert error["message"].startswith(f"{method} /")
    assert ("allow" in reply.headers) == (status == 405)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 422),
        (b"", "application/json", 422),
        (b"null", "application/json", 422),
        (b"[1]", "application/json", 422),
        (b'"text"', "application/json", 422),
        (b"\xff\xfe{", "application/json", 400),
        (b"[" * 50_000, "application/json", 400),
        (b'{"temperature": NaN}', "application/json", 422),
        (b'{"temperature": 1e999}', "application/json", 422),
        (b"{}", "text/plain", 422),
        (b"a=1", "application/x-www-form-urlencoded", 422),
        (b"x" * 70_000, "application/json", 413),
    ],
)
def test_a_malformed_body_is_an_openai_error(address, path, body, content_type, status):
    headers = {"content-type": content_type}
    assert_openai_error(httpx.post(address + path, content=body, headers=headers), {status})


def test_a_failure_of_the_server_is_an_openai_error(address, advisor, monkeypatch):
    monkeypatch.setattr(advisor.registry, "list_models", lambda: 1 / 0)
    error = assert_openai_error(httpx.get(f"{address}/v1/models"), {500})
    assert (error["type"], error["message"]) == ("server_error", "Internal server error.")
