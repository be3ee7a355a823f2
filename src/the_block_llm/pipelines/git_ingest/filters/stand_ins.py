"""Recognizes files that stand for content that is not in the repository or not readable.

Pointers of git-lfs and similar tools, and encrypted files, are short text or look like text, but
say nothing about the project.
"""

import re
from typing import Final

from the_block_llm.schemas import DropReason

# How the first line of each begins; few other files begin so.
_POINTERS: Final = (
    b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/",
    b"/annex/objects/", b".git/annex/objects/", b"#$# git-fat ", b"Subproject commit ",
    b"<{{{placeholder-git-media}}}",
)  # fmt: skip
_CIPHERTEXTS: Final = (
    b"\x00GITCRYPT\x00", b"$ANSIBLE_VAULT;", b"-----BEGIN PGP MESSAGE-----",
    b"-----BEGIN AGE ENCRYPTED FILE-----", b"age-encryption.org/v1", b"U2FsdGVkX1",
)  # fmt: skip
_SEALED_SECRET: Final = b"kind: SealedSecret"
_ENCRYPTED_VALUES: Final = (b"ENC[AES256_GCM,", b"ENC[PKCS7,")
_MAX_LINES_PER_VALUE: Final = 4
# Hashes of data kept elsewhere, as DVC writes them: nothing but outs, md5, size and path.
_DVC_STARTS: Final = (b"outs:", b"deps:", b"md5:", b"wdir:", b"meta:", b"- md5:", b"frozen:")
_DVC_LINE: Final = re.compile(
    rb" *(?:- )?(?:(?:md5|etag|size|hash|nfiles|path|remote|isexec|frozen|wdir): .*|outs:|deps:"
    rb"|meta:)"
)
# What a checkout without symbolic links holds in their place, and a commit from there records.
_LINK_STARTS: Final = (b"../", b"./")
_LINK: Final = re.compile(rb"(?:\.{1,2}/)+[\w.@+/-]+")
_STARTS: Final = (*_POINTERS, *_CIPHERTEXTS, *_DVC_STARTS, *_LINK_STARTS, b"---", b"apiVersion: ")
_HUNK: Final = b"@@ -"
_NO_NEWLINE: Final = b"\\ No newline"


def stand_in_reason(content: bytes) -> DropReason | None:
    r"""Return ``pointer`` or ``encrypted`` for a file, or for the hunks of its patch.

    >>> stand_in_reason(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    'pointer'
    """
    is_patch = content.startswith(_HUNK)
    start = content.find(b"\n") + 2 if is_patch else 0
    if not content.startswith(_STARTS, start):
        return "encrypted" if _has_encrypted_values(content) else None
    if content.startswith(_POINTERS, start):
        return "pointer"
    if content.startswith(_CIPHERTEXTS, start) or _has_encrypted_values(content):
        return "encrypted"
    if content.startswith((b"---", b"apiVersion: "), start):
        return "encrypted" if _SEALED_SECRET in content else None
    return "pointer" if _is_dvc(content, is_patch) or _is_link(content, is_patch) else None


def _has_encrypted_values(content: bytes) -> bool:
    """Return whether most values of a settings file are encrypted, as by SOPS or eyaml."""
    n_values = sum(content.count(mark) for mark in _ENCRYPTED_VALUES)
    return n_values > 1 and n_values * _MAX_LINES_PER_VALUE >= content.count(b"\n")


def _lines(content: bytes, is_patch: bool) -> list[bytes]:
    lines = content.splitlines()
    if not is_patch:
        return lines
    return [line[1:] for line in lines if not line.startswith((_HUNK, _NO_NEWLINE))]


def _is_dvc(content: bytes, is_patch: bool) -> bool:
    lines = _lines(content, is_patch)
    return b"md5: " in content and all(_DVC_LINE.fullmatch(line) for line in lines)


def _is_link(content: bytes, is_patch: bool) -> bool:
    """Return whether the whole content is a relative path without a line break at its end."""
    is_open = _NO_NEWLINE in content if is_patch else not content.endswith(b"\n")
    return is_open and all(_LINK.fullmatch(line) for line in _lines(content, is_patch))
