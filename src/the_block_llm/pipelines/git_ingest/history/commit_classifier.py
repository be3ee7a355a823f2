"""Classifies a commit by its message: kind, reverted commit, and whether it is informative."""

import re
from typing import Final, NamedTuple

from the_block_llm.schemas import CommitKind

_CONVENTIONAL_TYPES: Final[dict[str, CommitKind]] = {
    "feat": "feature", "feature": "feature", "fix": "fix", "bugfix": "fix", "hotfix": "fix",
    "refactor": "refactor", "perf": "perf", "docs": "docs", "doc": "docs", "test": "test",
    "tests": "test", "build": "build", "ci": "build", "deps": "build", "chore": "chore",
    "style": "chore", "release": "chore", "revert": "revert", "bench": "perf",
    "cleanup": "refactor", "security": "fix",
}  # fmt: skip
_CONVENTIONAL_PREFIX: Final = re.compile(r"^(?:\[(\w+)\]|(\w+)(?:\([^)]*\))?!?:)\s*", re.IGNORECASE)

# The first kind in this order with a word in the subject applies. ``*`` stands for any ending,
# ``+`` for a nonempty one; words with ``^`` count only at the start of the subject.
_KIND_WORDS: Final[dict[CommitKind, str]] = {
    "revert": "^revert ^reverts ^reverted ^reverting",
    "merge": "^merge ^merged ^merges",
    "fix": "fix fixes fixed fixing bug bugs repair resolve resolves resolved correct corrects "
    "corrected hotfix regression crash leak typo typos workaround prevent",
    "docs": "doc docs documentation document readme changelog comment comments docstring "
    "docstrings",
    "test": "test tests testing coverage fuzz* fixture fixtures",
    "perf": "perf performance optimis* optimiz* speedup faster benchmark benchmarks cache",
    "refactor": "refactor* restructure reorganise reorganize cleanup simplif+ renam+ extract "
    "move moved moves split dedup* rework tidy",
    "build": "build ci cargo makefile cmake docker* workflow workflows dependenc+ deps bump "
    "bumps bumped upgrade upgrades upgraded pin pins pinned toolchain packag+",
    "feature": "^add ^adds ^added ^adding ^implement* ^introduc+ ^support* ^allow* ^enabl+ "
    "^creat+ ^integrat+ ^expos+ ^wire ^wires ^wired ^provide* ^extend* ^new",
    "chore": "chore release released releases version lint* format* rustfmt clippy gitignore "
    "license remove removes removed delete deletes deleted drop",
}
_PHRASES: Final[tuple[tuple[str, CommitKind, re.Pattern[str]], ...]] = (
    ("back", "revert", re.compile(r"^back(?:ed)? out\b")),
    ("speed", "perf", re.compile(r"\bspeed\sup\b")),
    ("re-", "refactor", re.compile(r"\bre-(?:structure|organi[sz]e)\b")),
    ("clean", "refactor", re.compile(r"\bclean\sup\b")),
)

_REVERTED_SHA: Final = re.compile(r"\b[Tt]his reverts commit ([0-9a-f]{7,64})\b")
_REVERTED_SUBJECT: Final = re.compile(r"^(?:Revert|revert:?) \"(.+)\"$")

# A subject is informative if enough letters remain without these words.
_UNINFORMATIVE_WORDS: Final = frozenset({
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
_MIN_INFORMATIVE_LETTERS: Final = 3
_WORD_CHARACTERS: Final = re.compile(r"\w+")
_WORD: Final = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_GENERATED_MERGE_SUBJECT: Final = re.compile(
    r"^(?:Merge (?:pull request|branch|branches|remote-tracking branch|tag|commit|changes from)"
    r"\b|Merged in )"
)
_GENERATED_EDIT_SUBJECT: Final = re.compile(
    r"^(?:Update|Create|Delete|Rename|Add files via upload)\s*\S*$"
)


class SubjectInfo(NamedTuple):
    """Classification of a subject."""

    kind: CommitKind
    informative: bool
    """False for a subject that would fit any commit."""
    normalized: str
    """The subject without numbers, case and punctuation."""


def classify_subject(subject: str, *, is_merge: bool) -> SubjectInfo:
    """Classify a commit by the prefix or the words of its subject.

    >>> classify_subject("perf(consensus): cache the leader schedule", is_merge=False).kind
    'perf'
    >>> classify_subject("Add DKG resharing", is_merge=False)
    SubjectInfo(kind='feature', informative=True, normalized='add dkg resharing')
    >>> uninformative = ("wip", ".", "codex cli local changes", "Update README.md")
    >>> any(classify_subject(subject, is_merge=False).informative for subject in uninformative)
    False
    """
    lower = subject.lower()
    words = _split_words(lower)
    normalized = " ".join([word for word in words if not word.isdigit()])
    prefix = _CONVENTIONAL_PREFIX.match(subject)
    kind: CommitKind | None = "merge" if is_merge else None
    if prefix is not None:
        kind = kind or _CONVENTIONAL_TYPES.get((prefix[1] or prefix[2]).lower())
        lower = subject[prefix.end() :].lower()
        words = _split_words(lower)
    is_generated = _GENERATED_MERGE_SUBJECT.match(subject) or _GENERATED_EDIT_SUBJECT.match(subject)
    return SubjectInfo(
        kind or _classify_words(lower, words),
        not is_generated and _is_informative(words),
        normalized,
    )


def _split_words(lower: str) -> list[str]:
    # Both patterns agree on most subjects; the first takes half the time.
    return (_WORD_CHARACTERS if _has_no_separators(lower) else _WORD).findall(lower)


def _has_no_separators(lower: str) -> bool:
    return "_" not in lower and "'" not in lower and "\u2019" not in lower


def _classify_words(lower: str, words: list[str]) -> CommitKind:
    if not _has_no_separators(lower):
        words = _WORD_CHARACTERS.findall(lower)
    rank = min([_kind_ranks[word] for word in words], default=_RANK_OTHER)
    if words and lower.startswith(words[0]):
        rank = min(rank, _kind_ranks["^" + words[0]])
    for hint, kind, phrase in _PHRASES:
        if hint in lower and phrase.search(lower):
            rank = min(rank, _KINDS.index(kind))
    return _KINDS[rank]


def _is_informative(words: list[str]) -> bool:
    n_letters = 0
    for word in words:
        if word not in _UNINFORMATIVE_WORDS and not word.isdigit():
            n_letters += len(word)
            if n_letters >= _MIN_INFORMATIVE_LETTERS:
                return True
    return False


class _KindRankCache(dict[str, int]):
    """Index in ``_KINDS`` of each word's kind; cached, as subjects share most of their words."""

    def __missing__(self, word: str) -> int:
        found = _KIND_WORD_PATTERN.fullmatch(word)
        if len(self) >= _MAX_CACHED_WORDS:
            self.clear()
        self[word] = rank = _RANK_OTHER if found is None else int(found.lastgroup[1:])  # type: ignore[index]
        return rank


def _alternatives(words: str) -> str:
    endings = {"*": r"\w*", "+": r"\w+"}
    return "|".join(
        re.escape(word.rstrip("*+")) + endings.get(word[-1], "") for word in words.split()
    )


_KINDS: Final[tuple[CommitKind, ...]] = (*_KIND_WORDS, "other")
_RANK_OTHER: Final = len(_KIND_WORDS)
_KIND_WORD_PATTERN: Final = re.compile(
    "|".join(f"(?P<k{i}>{_alternatives(words)})" for i, words in enumerate(_KIND_WORDS.values()))
)
_MAX_CACHED_WORDS: Final = 16_384
_kind_ranks: Final = _KindRankCache()


def reverted_sha(body: str) -> str | None:
    """Return the sha, possibly abbreviated, of the commit that the message names as reverted."""
    found = _REVERTED_SHA.search(body) if "reverts commit" in body else None
    return found[1] if found else None


def reverted_subject(subject: str) -> str | None:
    """Return the subject of the commit that the subject line names as reverted."""
    found = _REVERTED_SUBJECT.match(subject)
    return found[1] if found else None
