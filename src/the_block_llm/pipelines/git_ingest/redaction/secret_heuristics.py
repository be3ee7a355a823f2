"""Values that are secret because of the name they are given, and values that look random."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from the_block_llm.pipelines.git_ingest.redaction.secret_patterns import WORDS_OF_SECRETS

Span = tuple[int, int, str]
"""Start, end and kind of a secret in a line."""

_KEYED: Final = re.compile(
    rf"(?i:(?P<key>{WORDS_OF_SECRETS}[\w.-]{{0,24}}))[\"'`\]]{{0,2}}\s{{0,4}}(?:=>|:=|==?|:)\s{{0,4}}"
    r"(?:(?P<quote>[\"'`])(?P<quoted>(?:(?!(?P=quote)).){4,}?)(?P=quote)"
    r"|(?P<bare>[^\s\"'`,;(){}<>\[\]$]{6,})(?:$|[\s#,;]))"
)
_NAME_END: Final = re.compile(r"[\w.-]*$")
_MAX_NAME: Final = 48
# What the name goes on with tells that the value is about a secret and not one.
_ABOUT: Final = re.compile(
    r"(?:[_.-]|[sntdyPSNTDY](?=[A-Z]))(?i:name|names|id|ids|type|types|file|files|path|url|uri|len|length|size|count|field|param"
    r"|params|header|prefix|suffix|env|var|label|policy|expiry|expires|ttl|kind|format|pattern"
    r"|regex|rule|rules|hint|help|error|message|msg|prompt|desc|description|budget|limit|index"
    r"|offset|mask|ref|class|schema|version|status|state|provider|store|manager|reset|required"
    r"|min|max|arn|scope|scopes|issuer|audience|word|words|kinds|symbol|address|mint|contract"
    r"|price|amount|per_\w+|at)$|(?i:tokeni[sz](?:ers?|ed|e|ation)$)"
)
_NEVER: Final = re.compile(
    r"^(?:.*(?:example|placeholder|change_?-?me|redacted|your[_-]|insert|dummy|xxx|\*\*\*|\.\.\."
    r"|___|foobar|todo|none|null|undefined|n/a|secret:).*|(.)\1*|true|false|\d{1,5}|"
    r"[A-Za-z_][\w]*(?:(?:\.|::|->)[A-Za-z_]\w*)+(?:\(.*)?|[%@&!]\w+%?|\\.*"
    r"|(?:https?|file|s3|gs)://.*|/[\w./-]+|\./.*|sha\d+|utf-?8|ed25519|rsa\d*|[a-z]+-?\d)$",
    re.IGNORECASE,
)
_WORDS: Final = re.compile(r"^[A-Za-z]+(?:[ _./:-]+[A-Za-z]+)*[:.!?]?$")
_CAMEL: Final = re.compile(r"^[A-Za-z]?[a-z]+(?:[A-Z][a-z]+)+\d?$|^[A-Z][a-z]+\d?$")
# What is a password even where a bare word would be a variable.
_STRONG: Final = re.compile(r"^(?=.*\d)(?=.*[a-z])(?=.*[A-Z!@#%^&*+=~?])[^_]+$")
_IS_PASSWORD: Final = re.compile(r"passw|passphrase|pwd", re.IGNORECASE)
_MNEMONIC: Final = re.compile(r"^(?:[a-z]{3,8} ){11,23}[a-z]{3,8}$")
_ENV_NAME: Final = re.compile(r"^[A-Z][A-Z0-9_]*$")
_CONFIG_FILE: Final = re.compile(
    r"\.(?:ya?ml|toml|ini|cfg|conf|json|properties|env|tf|tfvars|xml|plist|service|config|txt)$"
    r"|(?:^|/)\.?env(?:\.|$)|(?:^|/)\.[a-z]+rc$|Dockerfile|docker-compose",
    re.IGNORECASE,
)

_RANDOM: Final = re.compile(r"[A-Za-z0-9+/_-]{32,}={0,2}")
_HEX: Final = re.compile(r"^(?:0x)?[0-9a-fA-F]{32,}$")
# In these places hex and base64 are names of contents, and public.
_PUBLIC: Final = re.compile(
    r"sha-?\d|sha\b|\bmd5|hash|digest|checksum|integrity|commit|blob|tree|\brev\b|revision|\buuid"
    r"|public|pubkey|fingerprint|address|\bindex [0-9a-f]+\.\.|merkle|root|txid|block|genesis"
    r"|data:|base64,|signature|certificate|\bssh-(?:rsa|ed25519)|url\(|https?://|cid\b|etag|nonce",
    re.IGNORECASE,
)
_SECRET_NEAR: Final = re.compile(
    rf"{WORDS_OF_SECRETS}|\bseed\b|\bsk\b|\bkey\b|\bauth|\bpriv", re.IGNORECASE
)
_RANDOM_BITS: Final = 4.4  # bits a character; words and paths stay below 4.2
_HEX_BITS: Final = 3.0
# Paths, long names and alphabets are made of words; of 10,000 random strings of 32 characters
# and more, fewer than 30 are by chance.
_WORD_IN_NAME: Final = re.compile(r"[A-Z]?[a-z]{3,}|[A-Z]{4,}")
_WORDS_SHARE: Final = 0.7


def is_config(path: str) -> bool:
    """True where bare words after a name are values, not code."""
    return _CONFIG_FILE.search(path) is not None


def keyed_values(line: str, *, in_config: bool) -> Iterator[Span]:
    """Yield values that are given to a name such as ``password`` or ``api_key``."""
    for found in _KEYED.finditer(line):
        # Looked for backwards: a pattern that began with any word would be quadratic.
        before = line[max(0, found.start() - _MAX_NAME) : found.start()]
        key = _NAME_END.search(before)[0] + found["key"]  # type: ignore[index]
        group = "quoted" if found["quoted"] is not None else "bare"
        value = found[group]
        is_password = _IS_PASSWORD.search(key) is not None
        is_setting = in_config or _ENV_NAME.match(key) is not None
        if group == "bare" and not is_setting and not (is_password and _STRONG.match(value)):
            continue
        if _MNEMONIC.match(value):
            yield (*found.span(group), "mnemonic")
        elif not _ABOUT.search(key) and _could_be_secret(value, is_password, is_setting):
            yield (*found.span(group), "password" if is_password else "keyed-secret")


def random_values(line: str) -> Iterator[Span]:
    """Yield strings that no person would write and that do not name public content."""
    for found in _RANDOM.finditer(line):
        value = found[0]
        if _HEX.match(value):
            near = line[max(0, found.start() - 60) : found.start()]
            if _SECRET_NEAR.search(near) and not _PUBLIC.search(near) and bits(value) > _HEX_BITS:
                yield (*found.span(), "high-entropy-hex")
        elif _is_random(value) and not _PUBLIC.search(
            line[max(0, found.start() - 80) : found.end()]
        ):
            yield (*found.span(), "high-entropy")


def bits(text: str) -> float:
    """Return the Shannon entropy of ``text`` in bits a character."""
    n = len(text)
    return -sum(c / n * math.log2(c / n) for c in Counter(text).values())


def _could_be_secret(value: str, is_password: bool, is_setting: bool) -> bool:
    if " " in value or _NEVER.match(value):
        return False
    if any(mark in value for mark in "<>{}$()[]"):
        return False  # a template, a call, or an expression
    if _WORDS.match(value):
        # Words: a weak password where settings are kept, an identifier in code.
        return is_password and is_setting and len(value) >= 6 and "_" not in value
    if _CAMEL.match(value):
        return False
    has_digit = any(c.isdigit() for c in value)
    has_letter = any(c.isalpha() for c in value)
    has_symbol = any(c in "!@#%^&*+=~?" for c in value)
    shortest = 6 if is_password else 8
    return len(value) >= shortest and has_letter and (has_digit or has_symbol)


def _is_random(value: str) -> bool:
    kinds = (str.isupper, str.islower, str.isdigit)
    if not all(any(is_kind(c) for c in value) for is_kind in kinds):
        return False
    if value.count("/") > len(value) // 12 or value.count("_") + value.count("-") > 5:
        return False
    in_words = sum(map(len, _WORD_IN_NAME.findall(value)))
    if in_words >= _WORDS_SHARE * sum(map(str.isalnum, value)):
        return False
    return bits(value) >= _RANDOM_BITS
