"""Fuzzing of the HTTP API: no request causes a server error or an undocumented response."""

from http import HTTPStatus

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from tests.builders.advised_repository import advisor_parameters, build_advised_repository
from tests.builders.advisor_server import serve_in_thread

from the_block_llm.advisor.advisor import Advisor

OPERATIONS = [
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/models", "GET"),
    ("/v1/models/{name}", "GET"),
    ("/v1/sources/file", "GET"),
    ("/v1/sources/commit", "GET"),
    ("/health", "GET"),
    ("/metrics", "GET"),
]


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    folder = build_advised_repository(tmp_path_factory.mktemp("fuzzed"))
    budget = {"passages": 2, "passage_tokens": 100, "prompt_tokens": 600, "new_tokens": 2}
    with serve_in_thread(Advisor(advisor_parameters(folder, cpu=budget))) as address:
        yield schemathesis.openapi.from_url(f"{address}/openapi.json")


def test_every_operation_is_fuzzed(schema):
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {(op.path, op.method.upper()) for op in operations} == set(OPERATIONS)


# These have no invalid requests.
WITHOUT_INPUT = {"/v1/models", "/v1/models/{name}", "/health", "/metrics"}
MODELS = {"/v1/chat/completions": "tiny", "/v1/completions": "tiny-coder@base"}


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        (path, method, mode)
        for path, method in OPERATIONS
        for mode in GenerationMode
        if mode == GenerationMode.POSITIVE or path not in WITHOUT_INPUT
    ],
)
def test_fuzzed_requests_get_documented_responses(schema, path, method, mode):
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    @settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def fuzz(case):
        if mode == GenerationMode.POSITIVE and path in MODELS:
            # A random name would be refused before the other fields are checked.
            case.body["model"] = MODELS[path]
        # A prompt that is empty or too long matches the schema but is refused.
        excluded = [positive_data_acceptance]
        response = case.call()
        if response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            # Refused by its size, before the fields are checked.
            excluded.append(negative_data_rejection)
        case.validate_response(response, excluded_checks=excluded)

    fuzz()
