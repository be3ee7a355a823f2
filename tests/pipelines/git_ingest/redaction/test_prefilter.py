"""Every line that a rule matches is searched: the automata are derived from the rules."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from the_block_llm.pipelines.git_ingest.redaction import email_addresses, named_values
from the_block_llm.pipelines.git_ingest.redaction.prefilter import prefilters, rules_on
from the_block_llm.pipelines.git_ingest.redaction.private_keys import PRIVATE_KEY
from the_block_llm.pipelines.git_ingest.redaction.provider_tokens import token_formats
from the_block_llm.pipelines.git_ingest.redaction.random_strings import CANDIDATE

_SETTINGS = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
_AROUND = st.sampled_from(["", "+", "    ", "x = '", "(", "größe "])
_NAMED_RULES = {
    "named": named_values.NAMED_VALUE,
    "client": named_values.CLIENT_OPTION,
    "insert": named_values.INSERT,
    "pending": named_values.PENDING_VALUE,
}


def _is_searched(line: str) -> bool:
    text = f"before\n{line}\nafter".encode()
    return any(pattern.search(text) for pattern in prefilters(secrets=True, emails=True))


def _line(source: str) -> st.SearchStrategy[str]:
    printable = st.characters(min_codepoint=32, max_codepoint=126)
    matching = st.from_regex(re.compile(source, re.ASCII), fullmatch=True, alphabet=printable)
    return st.builds(str.__add__, _AROUND, matching)


@pytest.mark.parametrize("index", range(len(token_formats())))
def test_lines_with_a_token_are_searched(index: int) -> None:
    token = token_formats()[index]

    @_SETTINGS
    @given(_line(token.source))
    def check(line: str) -> None:
        if token.pattern.search(line):
            assert _is_searched(line)
            assert index in rules_on(line.encode()).formats

    check()


@pytest.mark.parametrize("rule", _NAMED_RULES)
def test_lines_with_a_named_value_are_searched(rule: str) -> None:
    @_SETTINGS
    @given(_line(_NAMED_RULES[rule]))
    def check(line: str) -> None:
        if re.search(_NAMED_RULES[rule], line):
            assert _is_searched(line)
            assert getattr(rules_on(line.encode()), rule)

    check()


@pytest.mark.parametrize("source", [PRIVATE_KEY, CANDIDATE, email_addresses.EMAIL])
def test_lines_with_a_key_a_random_value_or_an_address_are_searched(source: str) -> None:
    @_SETTINGS
    @given(_line(source))
    def check(line: str) -> None:
        if re.search(source, line):
            assert _is_searched(line)

    check()
