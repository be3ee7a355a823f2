"""Pseudonymizes commit authors, and detects bots."""

import functools
import hashlib
import hmac
import logging
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock

from the_block_llm.errors import StorageError
from the_block_llm.files.checksums import checksum
from the_block_llm.files.durable_files import write_durably
from the_block_llm.os_errors import explain

_log = logging.getLogger(__name__)
FORMER_KEY_FILE: Final = Path("conf/local/pseudonym.key")
"""Where the key was until it left the folder that `kedro package` archives."""
_KEY_BYTES: Final = 32
_BOT: Final = re.compile(
    r"\[bot\]|\bbot@|-bot\b|\bbot\b|dependabot|renovate|greenkeeper|github-actions|snyk-bot"
    r"|allcontributors|pre-commit-ci|semantic-release|weblate|transifex|jenkins|travis ci"
    r"|codecov|mergify|imgbot|pyup",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Pseudonymizer:
    """Maps authors to the IDs in the tables."""

    key: bytes | None
    """Key of the HMAC; None keeps names and addresses."""

    @functools.lru_cache(maxsize=4096)  # noqa: B019, a run creates only a few
    def author_id(self, name: str, email: str) -> str:
        if self.key is None:
            return f"{name} <{email}>"
        identity = (email or name).strip().lower().encode("utf-8", "surrogatepass")
        return "author-" + hmac.new(self.key, identity, hashlib.sha256).hexdigest()[:12]


@functools.lru_cache(maxsize=4096)
def is_bot(name: str, email: str) -> bool:
    """Return whether the author is a bot.

    >>> is_bot("dependabot[bot]", "49699333+dependabot[bot]@users.noreply.github.com")
    True
    >>> is_bot("Abbot Jones", "abbot@example.org")
    False
    """
    return _BOT.search(name) is not None or _BOT.search(email) is not None


def load_pseudonymizer(pseudonymise: bool, key_file: Path) -> Pseudonymizer:
    """Read the pseudonym key, or create it readable by its owner only.

    A key at :data:`FORMER_KEY_FILE`, relative to the folder of ``key_file``, is moved first.

    Raises:
        StorageError: The key can be neither read nor created, or is damaged.
    """
    if not pseudonymise:
        return Pseudonymizer(None)
    try:
        if not key_file.exists():
            _create_key(key_file)
        return Pseudonymizer(_parse_key(key_file.read_text(encoding="ascii")))
    except OSError as error:
        raise StorageError(
            f"The pseudonym key {key_file} cannot be read or created: "
            f"{explain(error, 'set git_ingest.pseudonym_key_file to another file')}"
        ) from error
    except ValueError as error:
        raise StorageError(
            f"The pseudonym key {key_file} is damaged ({error}). "
            "Restore it from a backup, or delete it (author IDs will change)."
        ) from error


def _create_key(key_file: Path) -> None:
    key_file.parent.mkdir(parents=True, exist_ok=True)
    # Two runs at once must not use two keys, and none may read an unfinished one.
    with FileLock(f"{key_file}.lock"):
        if key_file.exists():
            return
        former = key_file.parent / FORMER_KEY_FILE
        if former.is_file():
            former.replace(key_file)
            _log.info("Moved the pseudonym key %s to %s", former, key_file, extra={"markup": False})
            return
        _log.info(
            "Created the pseudonym key %s. Keep it: another key gives other author IDs.",
            key_file, extra={"markup": False},
        )  # fmt: skip
        key = secrets.token_hex(_KEY_BYTES)
        write_durably(key_file, f"{key} {checksum(key.encode())}\n", mode=0o600)


def _parse_key(text: str) -> bytes:
    """Return the key in ``text``, 64 hexadecimal digits, after a check of its checksum, if any."""
    key, *stored = text.split() or [""]
    if len(key) != 2 * _KEY_BYTES:
        raise ValueError(f"it has {len(key)} digits, {2 * _KEY_BYTES} are needed")
    if stored not in ([], [checksum(key.encode())]):
        raise ValueError("its checksum does not match")
    return bytes.fromhex(key)
