"""What a commit's message tells: its kind, the commit it reverts, whether it says anything."""

import re
from typing import Final

from the_block_llm.schemas import CommitKind

_CONVENTIONAL: Final[dict[str, CommitKind]] = {
    "feat": "feature", "feature": "feature", "fix": "fix", "bugfix": "fix", "hotfix": "fix",
    "refactor": "refactor", "perf": "perf", "docs": "docs", "doc": "docs", "test": "test",
    "tests": "test", "build": "build", "ci": "build", "deps": "build", "chore": "chore",
    "style": "chore", "release": "chore", "revert": "revert", "bench": "perf",
    "cleanup": "refactor", "security": "fix",
}  # fmt: skip
_PREFIX: Final = re.compile(r"^(?:\[(\w+)\]|(\w+)(?:\([^)]*\))?!?:)\s*", re.IGNORECASE)


def _any_of(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.VERBOSE)


# Tried in this order, on lower case: the first that matches decides.
_WORDING: Final[dict[CommitKind, re.Pattern[str]]] = {
    "revert": _any_of(r"^revert(?:s|ed|ing)?\b | ^back(?:ed)?\ out\b"),
    "merge": _any_of(r"^merge[sd]?\b"),
    "fix": _any_of(
        r"""\b(?:fix(?:es|ed|ing)? | bugs? | repair | resolve[sd]? | correct(?:s|ed)? | hotfix
        | regression | crash | leak | typos? | workaround | prevent)\b"""
    ),
    "docs": _any_of(
        r"\b(?:docs? | documentation | document | readme | changelog | comments? | docstrings?)\b"
    ),
    "test": _any_of(r"\b(?:tests? | testing | coverage | fuzz\w* | fixtures?)\b"),
    "perf": _any_of(
        r"\b(?:perf | performance | optimi[sz]\w* | speed\s?up | faster | benchmarks? | cache)\b"
    ),
    "refactor": _any_of(
        r"""\b(?:refactor\w* | re-?structure | re-?organi[sz]e | clean\s?up | simplif\w+
        | renam\w+ | extract | move[sd]? | split | dedup\w* | rework | tidy)\b"""
    ),
    "build": _any_of(
        r"""\b(?:build | ci | cargo | makefile | cmake | docker\w* | workflows? | dependenc\w+
        | deps | bump(?:s|ed)? | upgrade[sd]? | pin(?:s|ned)? | toolchain | packag\w+)\b"""
    ),
    "feature": _any_of(
        r"""^(?:add(?:s|ed|ing)? | implement\w* | introduc\w+ | support\w* | allow\w*
        | enabl\w+ | creat\w+ | integrat\w+ | expos\w+ | wire[sd]? | provide\w* | extend\w*
        | new)\b"""
    ),
    "chore": _any_of(
        r"""\b(?:chore | release[sd]? | version | lint\w* | format\w* | rustfmt | clippy
        | gitignore | license | remove[sd]? | delete[sd]? | drop)\b"""
    ),
}

_REVERTED_SHA: Final = re.compile(r"\b[Tt]his reverts commit ([0-9a-f]{7,64})\b")
_REVERTED_SUBJECT: Final = re.compile(r"^(?:Revert|revert:?) \"(.+)\"$")

# What is left of a subject after these words has to say something.
_EMPTY_WORDS: Final = frozenset({
    "a", "an", "the", "and", "or", "of", "in", "on", "at", "to", "for", "with", "from", "by",
    "my", "our", "this", "that", "these", "some", "more", "other", "another", "again", "now",
    "new", "old", "is", "it", "its", "all", "latest", "last", "final", "current", "next",
    "temp", "tmp", "wip", "misc", "various", "minor", "small", "quick", "little", "tiny", "bit",
    "stuff", "thing", "things", "work", "working", "progress", "update", "updates", "updated",
    "updating", "change", "changes", "changed", "changing", "modify", "modified",
    "modification", "modifications", "fix", "fixes", "fixed", "fixing", "bug", "bugs", "bugfix",
    "bugfixes", "hotfix", "typo", "typos", "edit", "edits", "edited", "commit", "commits",
    "committed", "save", "saved", "saving", "checkpoint", "backup", "sync", "synced",
    "snapshot", "initial", "init", "first", "start", "file", "files", "code", "codes", "local",
    "remote", "cleanup", "clean", "up", "tweak", "tweaks", "improvement", "improvements",
    "improve", "improved", "refactor", "refactoring", "refactored", "test", "tests", "testing",
    "try", "trying", "attempt", "done", "ok", "okay", "yes", "no", "hmm", "oops", "ugh", "add",
    "added", "adding", "remove", "removed", "delete", "deleted", "upload", "uploads",
    "uploaded", "via", "push", "pushed", "pull", "merge", "merged", "merging", "branch",
    "branches", "master", "main", "develop", "dev", "trunk", "head", "origin", "conflict",
    "conflicts", "review", "comments", "comment", "feedback", "address", "addressed", "pr",
    "request", "codex", "claude", "cursor", "copilot", "gpt", "chatgpt", "ai", "agent",
    "gemini", "aider", "cli", "bot", "auto", "automatic", "automated", "autosave", "tracking",
    "readme", "md",
})  # fmt: skip
_WORD: Final = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_FORGE_MERGE: Final = re.compile(
    r"^(?:Merge (?:pull request|branch|branches|remote-tracking branch|tag|commit|changes from)"
    r"\b|Merged in )"
)
_FORGE_EDIT: Final = re.compile(r"^(?:Update|Create|Delete|Rename|Add files via upload)\s*\S*$")


def commit_kind(subject: str, *, is_merge: bool) -> CommitKind:
    """Return the kind of a commit, from its prefix or its wording.

    >>> commit_kind("perf(consensus): cache the leader schedule", is_merge=False)
    'perf'
    >>> commit_kind("Add DKG resharing", is_merge=False)
    'feature'
    """
    if is_merge:
        return "merge"
    prefix = _PREFIX.match(subject)
    if prefix is not None:
        kind = _CONVENTIONAL.get((prefix[1] or prefix[2]).lower())
        if kind is not None:
            return kind
        subject = subject[prefix.end() :]
    # A pattern that ignores case takes three times as long.
    subject = subject.lower()
    for kind, wording in _WORDING.items():
        if wording.search(subject):
            return kind
    return "other"


def reverted_sha(body: str) -> str | None:
    """Return the sha, maybe short, of the commit that the message says it reverts."""
    found = _REVERTED_SHA.search(body) if "reverts commit" in body else None
    return found[1] if found else None


def reverted_subject(subject: str) -> str | None:
    """Return the subject of the commit that the message says it reverts."""
    found = _REVERTED_SUBJECT.match(subject)
    return found[1] if found else None


def says_something(subject: str) -> bool:
    """False for a subject that would fit any commit.

    >>> [says_something(s) for s in ("wip", ".", "codex cli local changes", "Update README.md")]
    [False, False, False, False]
    >>> says_something("Reject votes from a stale epoch")
    True
    """
    if _FORGE_MERGE.match(subject) or _FORGE_EDIT.match(subject):
        return False
    prefix = _PREFIX.match(subject)
    words = _WORD.findall((subject[prefix.end() :] if prefix else subject).lower())
    told = [word for word in words if word not in _EMPTY_WORDS and not word.isdigit()]
    return sum(map(len, told)) >= 3


def normal_form(subject: str) -> str:
    """What two subjects share that differ in numbers, case and punctuation only."""
    return " ".join(word for word in _WORD.findall(subject.lower()) if not word.isdigit())
