"""Values and files whose owner has found that they hold no secret."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pathspec

# Slow on purpose, since the report lists fingerprints: 1 ms for each guess at a password.
_SCRYPT: Final = {"n": 2**9, "r": 8, "p": 1}
_SALT: Final = b"the_block_llm"
_FINGERPRINT_BYTES: Final = 8


@functools.lru_cache(maxsize=65_536)
def fingerprint(value: str) -> str:
    """Return 16 hexadecimal digits that identify a masked value without giving it away.

    >>> fingerprint("hunter2")
    'ad7b1f8732b4d727'
    """
    digest = hashlib.scrypt(value.encode(), salt=_SALT, dklen=_FINGERPRINT_BYTES, **_SCRYPT)
    return digest.hex()


@dataclass(frozen=True)
class AllowList:
    """What is not masked; part of the name of every cached shard."""

    fingerprints: tuple[str, ...] = ()
    """Of values, as the report lists them."""
    paths: tuple[str, ...] = ()
    """Patterns of files in the syntax of ``.gitignore``."""

    @classmethod
    def of(cls, fingerprints: Sequence[str], paths: Sequence[str]) -> "AllowList":
        return cls(tuple(sorted(set(fingerprints))), tuple(paths))

    def has_value(self, value: str) -> bool:
        return bool(self.fingerprints) and fingerprint(value) in self.fingerprints

    def has_path(self, path: str) -> bool:
        return bool(self.paths and path) and _spec(self.paths).match_file(path)


@functools.cache
def _spec(patterns: tuple[str, ...]) -> pathspec.GitIgnoreSpec:
    return pathspec.GitIgnoreSpec.from_lines(patterns)
