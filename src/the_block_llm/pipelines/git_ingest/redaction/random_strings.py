"""Tells random strings from words, and finds random strings that stand without a name."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple


class Span(NamedTuple):
    """Part of a line to mask: start, end and kind of secret."""

    start: int
    end: int
    kind: str


# Row: first letter, column: second letter, a to z. Rounded log2 of the pair's frequency in English
# words and identifiers relative to that of 26 equally likely letters, plus 5. From 16,034 words of
# the documentation and code of nine public projects.
_LETTER_PAIRS: Final = (
    "35662350503756050767542340 64436331633742630563712161 63436316506543740546522020 "
    "64458433721534641563532230 53674441301557343776243540 63456721700633732555612240 "
    "63338345600546641664532121 73448322603443740546512030 44655550002558640566040304 "
    "70347232403064744073704220 54349434611435441464423020 63358432702633740155532060 "
    "75348201702452672252530020 63666572503424640367441020 44652442414567460765645310 "
    "72437324503623651756523140 43444423312535440445933310 63458341703554640566432040 "
    "52527336604533553367523041 63437416701432651665412351 45535640500667360767110202 "
    "73339320701433542353222220 73557426702436640664312200 54657533621442471357222562 "
    "45545433501556480377433033 60339221600444631034202234"
)
_LOG_ODDS: Final = {
    first + second: int(digit) - 5
    for first, row in zip("abcdefghijklmnopqrstuvwxyz", _LETTER_PAIRS.split(), strict=True)
    for second, digit in zip("abcdefghijklmnopqrstuvwxyz", row, strict=True)
}
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_MIN_WORD_SCORE: Final = (9.0, 9.0, 9.0, 0.8, 0.5)  # by length
_MIN_LONG_WORD_SCORE: Final = 0.3
_MAX_WORD_FRACTION: Final = 0.5

CANDIDATE: Final = r"(?:[\"'`=]|[=:>]\s{1,4})[A-Za-z0-9+/_\-]{32,}"
"""Source of a pattern of every value that may be random, for both :mod:`re` and RE2."""
_CANDIDATE: Final = re.compile(
    r"(?:[\"'`=]|[=:>]\s{1,4})(?P<value>[A-Za-z0-9+/_\-]{32,}={0,2})(?![\w+/=.%\\-])"
)
_HEX: Final = re.compile(r"^(?:0x)?[0-9a-fA-F]{32,}$")
# In these contexts random strings are digests or public data.
_PUBLIC_CONTEXT: Final = re.compile(
    r"sha-?\d|sha\b|\bmd5|hash|digest|checksum|integrity|commit|blob|tree|\brev\b|revision|\buuid"
    r"|public|pubkey|fingerprint|address|\bindex [0-9a-f]+\.\.|merkle|root|txid|block|genesis"
    r"|data:|base64|signature|\bsig\b|certificate|\bssh-(?:rsa|ed25519)|url\(|https?://|cid\b|etag"
    r"|nonce|\bech\b|\bmac\b|\bsecure\b|AAAA[BC]3NzaC1|\bgpg|\bpgp|vector|expected|actual|alphabet|charset|\bid\b|_id\b|sri\b|src=|href=|known_hosts",
    re.IGNORECASE,
)
_SECRET_CONTEXT: Final = re.compile(
    r"passw|secret|token|credential|mnemonic|\bseed\b|\bsk\b"
    r"|(?:api|app|auth|encryption|private|access)[ _-]?key|\bpriv",
    re.IGNORECASE,
)
# The string is all of a literal or of an assigned value.
_IS_VALUE: Final = re.compile(
    r"(?:(?<![\w)\]])[\"'`]|[\w\"'\])]\s*(?:=|:=|=>)\s*|[\"'\w]:\s+[\"']?)$"
)
_ALPHABET_STEP: Final = 0.5  # of the neighbours in an alphabet, the share that follow each other
_MIN_ENTROPY_BITS: Final = 4.4  # bits per character; words and paths are below 4.2
_MIN_HEX_ENTROPY_BITS: Final = 3.0


def words(text: str) -> list[str]:
    """Split an identifier or phrase into its words, in lower case.

    >>> words("POSTGRES_PASSWORD2"), words("dbPassword"), words("HTTPToken")
    (['postgres', 'password'], ['db', 'password'], ['http', 'token'])
    """
    return [word.lower() for word in _SPLIT.findall(text)]


_SPLIT: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")


def word_score(word: str) -> float:
    """Return the mean log-odds of the letter pairs of ``word``; random letters are below 0."""
    pairs = [_LOG_ODDS.get(a + b, 0) for a, b in itertools.pairwise(word)]
    return sum(pairs) / len(pairs) if pairs else 0.0


def looks_random(text: str) -> bool:
    """Return whether less than half of the letters and digits are words.

    >>> looks_random("Qx7tLm2vWz9p"), looks_random("kdjwqzvxml"), looks_random("hunter2")
    (True, True, False)
    """
    n_alnum = sum(map(str.isalnum, text))
    in_words = sum(len(word) for word in _WORD.findall(text) if _is_word(word.lower()))
    return in_words < _MAX_WORD_FRACTION * n_alnum


def _is_word(word: str) -> bool:
    n = len(word)
    minimum = _MIN_WORD_SCORE[n] if n < len(_MIN_WORD_SCORE) else _MIN_LONG_WORD_SCORE
    return word_score(word) >= minimum


def entropy_bits(text: str) -> float:
    """Return the Shannon entropy of ``text`` in bits per character."""
    n = len(text)
    return -sum(c / n * math.log2(c / n) for c in Counter(text).values())


def unnamed_secrets(line: str) -> Iterator[Span]:
    """Yield strings that look random, stand alone and are not public data."""
    for found in _CANDIDATE.finditer(line):
        value, start = found["value"], found.start("value")
        before = line[max(0, start - 60) : start]
        if not _IS_VALUE.search(before):
            continue
        if _HEX.match(value):
            is_secret = _SECRET_CONTEXT.search(before) and not _PUBLIC_CONTEXT.search(before)
            if is_secret and entropy_bits(value) > _MIN_HEX_ENTROPY_BITS:
                yield Span(start, start + len(value), "high-entropy-hex")
        elif _is_random_key(value) and not _PUBLIC_CONTEXT.search(
            line[max(0, start - 80) : found.end()]
        ):
            yield Span(start, start + len(value), "high-entropy")


def _is_random_key(value: str) -> bool:
    kinds = (str.isupper, str.islower, str.isdigit)
    if not all(any(is_kind(c) for c in value) for is_kind in kinds):
        return False
    if value.count("/") > len(value) // 12 or value.count("_") + value.count("-") > 5:
        return False
    steps = sum(ord(b) - ord(a) == 1 for a, b in itertools.pairwise(value))
    if steps > _ALPHABET_STEP * len(value):
        return False
    return looks_random(value) and entropy_bits(value) >= _MIN_ENTROPY_BITS
