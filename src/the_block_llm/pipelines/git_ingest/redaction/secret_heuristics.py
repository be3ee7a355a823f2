"""Heuristics for secrets without a fixed format: values of secret names and random strings."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from the_block_llm.pipelines.git_ingest.redaction.secret_patterns import CREDENTIAL_WORDS

Span = tuple[int, int, str]
"""Start, end and kind of a secret in a line."""

_ASSIGNMENT: Final = re.compile(
    rf"(?i:(?P<key>{CREDENTIAL_WORDS}[\w.-]{{0,24}}))[\"'`\]]{{0,2}}\s{{0,4}}(?:=>|:=|==?|:)\s{{0,4}}"
    r"(?:(?P<quote>[\"'`])(?P<quoted>(?:(?!(?P=quote)).){4,}?)(?P=quote)"
    r"|(?P<bare>[^\s\"'`,;(){}<>\[\]$]{6,})(?:$|[\s#,;]))"
)
_NAME_END: Final = re.compile(r"[\w.-]*$")
_MAX_NAME_CHARACTERS: Final = 48
# With these suffixes the name refers to a property of a secret, not to the secret itself.
_METADATA_NAME: Final = re.compile(
    r"(?:[_.-]|[sntdyPSNTDY](?=[A-Z]))(?i:name|names|id|ids|type|types|file|files|path|url|uri|len|length|size|count|field|param"
    r"|params|header|prefix|suffix|env|var|label|policy|expiry|expires|ttl|kind|format|pattern"
    r"|regex|rule|rules|hint|help|error|message|msg|prompt|desc|description|budget|limit|index"
    r"|offset|mask|ref|class|schema|version|status|state|provider|store|manager|reset|required"
    r"|min|max|arn|scope|scopes|issuer|audience|word|words|kinds|symbol|address|mint|contract"
    r"|price|amount|per_\w+|at)$|(?i:tokeni[sz](?:ers?|ed|e|ation)$)"
)
_NOT_A_SECRET: Final = re.compile(
    r"^(?:.*(?:example|placeholder|change_?-?me|redacted|your[_-]|insert|dummy|xxx|\*\*\*|\.\.\."
    r"|___|foobar|todo|none|null|undefined|n/a|secret:).*|(.)\1*|true|false|\d{1,5}|"
    r"[A-Za-z_][\w]*(?:(?:\.|::|->)[A-Za-z_]\w*)+(?:\(.*)?|[%@&!]\w+%?|\\.*"
    r"|(?:https?|file|s3|gs)://.*|/[\w./-]+|\./.*|sha\d+|utf-?8|ed25519|rsa\d*|[a-z]+-?\d)$",
    re.IGNORECASE,
)
_WORDS_ONLY: Final = re.compile(r"^[A-Za-z]+(?:[ _./:-]+[A-Za-z]+)*[:.!?]?$")
_CAMEL_CASE: Final = re.compile(r"^[A-Za-z]?[a-z]+(?:[A-Z][a-z]+)+\d?$|^[A-Z][a-z]+\d?$")
# A password even where an unquoted word would be a variable.
_STRONG_PASSWORD: Final = re.compile(r"^(?=.*\d)(?=.*[a-z])(?=.*[A-Z!@#%^&*+=~?])[^_]+$")
_PASSWORD_NAME: Final = re.compile(r"passw|passphrase|pwd", re.IGNORECASE)
_MNEMONIC: Final = re.compile(r"^(?:[a-z]{3,8} ){11,23}[a-z]{3,8}$")
_ENVIRONMENT_NAME: Final = re.compile(r"^[A-Z][A-Z0-9_]*$")
_CONFIG_FILE: Final = re.compile(
    r"\.(?:ya?ml|toml|ini|cfg|conf|json|properties|env|tf|tfvars|xml|plist|service|config|txt)$"
    r"|(?:^|/)\.?env(?:\.|$)|(?:^|/)\.[a-z]+rc$|Dockerfile|docker-compose",
    re.IGNORECASE,
)

_RANDOM_CANDIDATE: Final = re.compile(r"[A-Za-z0-9+/_-]{32,}={0,2}")
_HEX: Final = re.compile(r"^(?:0x)?[0-9a-fA-F]{32,}$")
# In these contexts hex and base64 strings are digests or public data.
_PUBLIC_CONTEXT: Final = re.compile(
    r"sha-?\d|sha\b|\bmd5|hash|digest|checksum|integrity|commit|blob|tree|\brev\b|revision|\buuid"
    r"|public|pubkey|fingerprint|address|\bindex [0-9a-f]+\.\.|merkle|root|txid|block|genesis"
    r"|data:|base64,|signature|certificate|\bssh-(?:rsa|ed25519)|url\(|https?://|cid\b|etag|nonce",
    re.IGNORECASE,
)
_SECRET_CONTEXT: Final = re.compile(
    rf"{CREDENTIAL_WORDS}|\bseed\b|\bsk\b|\bkey\b|\bauth|\bpriv", re.IGNORECASE
)
_MIN_ENTROPY_BITS: Final = 4.4  # bits per character; words and paths are below 4.2
_MIN_HEX_ENTROPY_BITS: Final = 3.0
# Paths, long names and alphabets consist of words; of 10,000 random strings of 32 characters
# and more, fewer than 30 do by chance.
_WORD_IN_IDENTIFIER: Final = re.compile(r"[A-Z]?[a-z]{3,}|[A-Z]{4,}")
_MAX_WORD_FRACTION: Final = 0.7


def is_config(path: str) -> bool:
    """Return whether unquoted words in the file are values, not code."""
    return _CONFIG_FILE.search(path) is not None


def assigned_secrets(line: str, *, in_config: bool) -> Iterator[Span]:
    """Yield the spans of values assigned to a name such as ``password`` or ``api_key``."""
    for found in _ASSIGNMENT.finditer(line):
        # Searched backwards: a pattern that starts with any word would be quadratic.
        before = line[max(0, found.start() - _MAX_NAME_CHARACTERS) : found.start()]
        key = _NAME_END.search(before)[0] + found["key"]  # type: ignore[index]
        group = "quoted" if found["quoted"] is not None else "bare"
        value = found[group]
        is_password = _PASSWORD_NAME.search(key) is not None
        is_setting = in_config or _ENVIRONMENT_NAME.match(key) is not None
        if (
            group == "bare"
            and not is_setting
            and not (is_password and _STRONG_PASSWORD.match(value))
        ):
            continue
        if _MNEMONIC.match(value):
            yield (*found.span(group), "mnemonic")
        elif not _METADATA_NAME.search(key) and _may_be_secret(value, is_password, is_setting):
            yield (*found.span(group), "password" if is_password else "keyed-secret")


def high_entropy_strings(line: str) -> Iterator[Span]:
    """Yield the spans of strings that look random and are not public data."""
    for found in _RANDOM_CANDIDATE.finditer(line):
        value = found[0]
        if _HEX.match(value):
            context = line[max(0, found.start() - 60) : found.start()]
            is_secret = _SECRET_CONTEXT.search(context) and not _PUBLIC_CONTEXT.search(context)
            if is_secret and entropy_bits(value) > _MIN_HEX_ENTROPY_BITS:
                yield (*found.span(), "high-entropy-hex")
        elif _looks_random(value) and not _PUBLIC_CONTEXT.search(
            line[max(0, found.start() - 80) : found.end()]
        ):
            yield (*found.span(), "high-entropy")


def entropy_bits(text: str) -> float:
    """Return the Shannon entropy of ``text`` in bits per character."""
    n = len(text)
    return -sum(c / n * math.log2(c / n) for c in Counter(text).values())


def _may_be_secret(value: str, is_password: bool, is_setting: bool) -> bool:
    if " " in value or _NOT_A_SECRET.match(value):
        return False
    if any(mark in value for mark in "<>{}$()[]"):
        return False  # a template, a call, or an expression
    if _WORDS_ONLY.match(value):
        # Words: a weak password in a configuration file, an identifier in code.
        return is_password and is_setting and len(value) >= 6 and "_" not in value
    if _CAMEL_CASE.match(value):
        return False
    has_digit = any(c.isdigit() for c in value)
    has_letter = any(c.isalpha() for c in value)
    has_symbol = any(c in "!@#%^&*+=~?" for c in value)
    min_length = 6 if is_password else 8
    return len(value) >= min_length and has_letter and (has_digit or has_symbol)


def _looks_random(value: str) -> bool:
    kinds = (str.isupper, str.islower, str.isdigit)
    if not all(any(is_kind(c) for c in value) for is_kind in kinds):
        return False
    if value.count("/") > len(value) // 12 or value.count("_") + value.count("-") > 5:
        return False
    n_word_characters = sum(map(len, _WORD_IN_IDENTIFIER.findall(value)))
    if n_word_characters >= _MAX_WORD_FRACTION * sum(map(str.isalnum, value)):
        return False
    return entropy_bits(value) >= _MIN_ENTROPY_BITS
