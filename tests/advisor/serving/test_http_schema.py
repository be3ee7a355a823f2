"""A fuzzer on the HTTP schema: whatever it sends, no server error and no undocumented reply."""

from http import HTTPStatus

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from tests.builders.advised_repository import advisor_parameters, build_advised_repository
from tests.builders.advisor_server import serving

from the_block_llm.advisor.advisor import Advisor

OPERATIONS = [
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/models", "GET"),
    ("/v1/sources/file", "GET"),
    ("/v1/sources/commit", "GET"),
    ("/health", "GET"),
    ("/metrics", "GET"),
]


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    folder = build_advised_repository(tmp_path_factory.mktemp("fuzzed"))
    budget = {"passages": 2, "passage_tokens": 100, "prompt_tokens": 600, "new_tokens": 2}
    with serving(Advisor(advisor_parameters(folder, cpu=budget))) as address:
        yield schemathesis.openapi.from_url(f"{address}/openapi.json")


def test_every_operation_is_fuzzed(schema):
    found = [result.ok() for result in schema.get_all_operations()]
    assert {(one.path, one.method.upper()) for one in found} == set(OPERATIONS)


PLAIN = {"/v1/models", "/health", "/metrics"}  # nothing in them can be wrong
MODELS = {"/v1/chat/completions": "tiny", "/v1/completions": "tiny-coder@base"}


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        (path, method, mode)
        for path, method in OPERATIONS
        for mode in GenerationMode
        if mode == GenerationMode.POSITIVE or path not in PLAIN
    ],
)
def test_nothing_breaks(schema, path, method, mode):
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
            # A name made up at random would be refused before anything else is looked at.
            case.body["model"] = MODELS[path]
        # A prompt that is too long or empty is well-formed and refused all the same.
        excluded = [positive_data_acceptance]
        response = case.call()
        if response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            # Refused by its length, before anybody looks at what is wrong in it.
            excluded.append(negative_data_rejection)
        case.validate_response(response, excluded_checks=excluded)

    fuzz()
