"""Finds the lines worth searching: RE2 patterns derived from the rules, over many texts at once.

The rules run on few lines only. These automata run at a hundred megabytes a second and match every
line on which a rule can match, because they are built from the rules' own sources: only repetitions
are shortened and look-ahead is dropped, both of which match more.
"""

import functools
import re
from typing import Any, Final, NamedTuple

import re2  # type: ignore[import-untyped]

from the_block_llm.pipelines.git_ingest.redaction.email_addresses import EMAIL
from the_block_llm.pipelines.git_ingest.redaction.named_values import (
    CLIENT_OPTION,
    INSERT,
    NAMED_VALUE,
    PENDING_VALUE,
)
from the_block_llm.pipelines.git_ingest.redaction.private_keys import PRIVATE_KEY
from the_block_llm.pipelines.git_ingest.redaction.provider_tokens import token_formats
from the_block_llm.pipelines.git_ingest.redaction.random_strings import CANDIDATE

_MAX_REPEATS: Final = 4
_MAX_AUTOMATON_BYTES: Final = 64 << 20


@functools.cache
def prefilters(*, secrets: bool, emails: bool) -> tuple[Any, ...]:
    """Return compiled patterns, one of which matches every line that may hold a secret or e-mail.

    They match UTF-8 as bytes; only ASCII letters count as letters.
    """
    sources = [EMAIL] if emails else []
    if secrets:
        # Several automata of a few hundred states run faster than one of thousands.
        tokens = [token.source for token in token_formats()]
        sources += [
            relaxed(NAMED_VALUE),
            "|".join(map(relaxed, (CLIENT_OPTION, INSERT, PENDING_VALUE))),
            "|".join(f"(?:{relaxed(source)})" for source in [*tokens, PRIVATE_KEY]),
            CANDIDATE,
        ]
    return tuple(map(_compile, sources))


class RulesOnLine(NamedTuple):
    """Which rules can match on a line."""

    named: bool
    client: bool
    insert: bool
    pending: bool
    formats: list[int]
    """Indices of :func:`provider_tokens.token_formats`."""


_NAMED_RULES: Final = (NAMED_VALUE, CLIENT_OPTION, INSERT, PENDING_VALUE)


def rules_on(line: bytes) -> RulesOnLine:
    """Return which rules can match on a line, so that only those run on it."""
    matched: list[int] = _rule_set().Match(line) or []
    named, client, insert, pending = (i in matched for i in range(len(_NAMED_RULES)))
    formats = [i - len(_NAMED_RULES) for i in matched if i >= len(_NAMED_RULES)]
    return RulesOnLine(named, client, insert, pending, formats)


@functools.cache
def _rule_set() -> Any:
    rules = re2.Set.SearchSet(_options())
    for source in [*_NAMED_RULES, *(token.source for token in token_formats())]:
        rules.Add(relaxed(source).encode("ascii"))
    rules.Compile()
    return rules


def relaxed(source: str) -> str:
    """Return a smaller pattern that matches wherever ``source`` does.

    Large repetition counts give automata of thousands of states, and RE2 has no look-ahead.
    """
    source = re.sub(r"\(\?[=!][^()]*\)", "", source)
    source = re.sub(r"\(\?P<\w+>", "(", source)
    source = source.replace(r"[\w.\-]", r"[\w.\-\x80-\xff]")  # names in other scripts
    return re.sub(r"\{(\d+)(?:,\d*)?\}", _shorten, source)


def _shorten(repeats: re.Match[str]) -> str:
    return f"{{{min(int(repeats[1]), _MAX_REPEATS)},}}"


def _compile(source: str) -> Any:
    return re2.compile(source.encode("ascii"), _options())


def _options() -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.never_capture = True
    options.never_nl = True  # the rules see one line at a time
    options.log_errors = False
    options.max_mem = _MAX_AUTOMATON_BYTES
    return options
