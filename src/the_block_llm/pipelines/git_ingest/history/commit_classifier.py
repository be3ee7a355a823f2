"""What a commit's message tells: its kind, the commit it reverts, whether it says anything."""

import re
from typing import Final, NamedTuple

from the_block_llm.schemas import CommitKind

_CONVENTIONAL: Final[dict[str, CommitKind]] = {
    "feat": "feature", "feature": "feature", "fix": "fix", "bugfix": "fix", "hotfix": "fix",
    "refactor": "refactor", "perf": "perf", "docs": "docs", "doc": "docs", "test": "test",
    "tests": "test", "build": "build", "ci": "build", "deps": "build", "chore": "chore",
    "style": "chore", "release": "chore", "revert": "revert", "bench": "perf",
    "cleanup": "refactor", "security": "fix",
}  # fmt: skip
_PREFIX: Final = re.compile(r"^(?:\[(\w+)\]|(\w+)(?:\([^)]*\))?!?:)\s*", re.IGNORECASE)


# The first kind that one of its words stands for decides. A word with ``*`` may go on, and one
# with ``+`` has to; words with ``^`` count only at the beginning of the subject.
_WORDING: Final[dict[CommitKind, str]] = {
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
_TELLING_LETTERS: Final = 3
_RUN: Final = re.compile(r"\w+")
_WORD: Final = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_FORGE_MERGE: Final = re.compile(
    r"^(?:Merge (?:pull request|branch|branches|remote-tracking branch|tag|commit|changes from)"
    r"\b|Merged in )"
)
_FORGE_EDIT: Final = re.compile(r"^(?:Update|Create|Delete|Rename|Add files via upload)\s*\S*$")


class SubjectFacts(NamedTuple):
    """What a subject tells."""

    kind: CommitKind
    informative: bool
    """False for a subject that would fit any commit."""
    form: str
    """What two subjects share that differ in numbers, case and punctuation only."""


def read_subject(subject: str, *, is_merge: bool) -> SubjectFacts:
    """Tell a commit's kind from the prefix or the wording of its subject, and what it says.

    >>> read_subject("perf(consensus): cache the leader schedule", is_merge=False).kind
    'perf'
    >>> read_subject("Add DKG resharing", is_merge=False)
    SubjectFacts(kind='feature', informative=True, form='add dkg resharing')
    >>> uninformative = ("wip", ".", "codex cli local changes", "Update README.md")
    >>> any(read_subject(subject, is_merge=False).informative for subject in uninformative)
    False
    """
    lower = subject.lower()
    words = _words(lower)
    form = " ".join([word for word in words if not word.isdigit()])
    prefix = _PREFIX.match(subject)
    kind: CommitKind | None = "merge" if is_merge else None
    if prefix is not None:
        kind = kind or _CONVENTIONAL.get((prefix[1] or prefix[2]).lower())
        lower = subject[prefix.end() :].lower()
        words = _words(lower)
    is_made = _FORGE_MERGE.match(subject) or _FORGE_EDIT.match(subject)
    return SubjectFacts(kind or _kind(lower, words), not is_made and _says_something(words), form)


def _words(lower: str) -> list[str]:
    # The same for most subjects, in half the time.
    return (_RUN if _is_plain(lower) else _WORD).findall(lower)


def _is_plain(lower: str) -> bool:
    return "_" not in lower and "'" not in lower and "\u2019" not in lower


def _kind(lower: str, words: list[str]) -> CommitKind:
    if not _is_plain(lower):
        words = _RUN.findall(lower)
    rank = min([_ranks[word] for word in words], default=_OTHER)
    if words and lower.startswith(words[0]):
        rank = min(rank, _ranks["^" + words[0]])
    for hint, kind, phrase in _PHRASES:
        if hint in lower and phrase.search(lower):
            rank = min(rank, _KINDS.index(kind))
    return _KINDS[rank]


def _says_something(words: list[str]) -> bool:
    n_letters = 0
    for word in words:
        if word not in _EMPTY_WORDS and not word.isdigit():
            n_letters += len(word)
            if n_letters >= _TELLING_LETTERS:
                return True
    return False


class _Ranks(dict[str, int]):
    """Place in ``_KINDS`` of what a word stands for; subjects share most of their words."""

    def __missing__(self, word: str) -> int:
        found = _RANK.fullmatch(word)
        if len(self) >= _REMEMBERED_WORDS:
            self.clear()
        self[word] = rank = _OTHER if found is None else int(found.lastgroup[1:])  # type: ignore[index]
        return rank


def _alternatives(words: str) -> str:
    endings = {"*": r"\w*", "+": r"\w+"}
    return "|".join(
        re.escape(word.rstrip("*+")) + endings.get(word[-1], "") for word in words.split()
    )


_KINDS: Final[tuple[CommitKind, ...]] = (*_WORDING, "other")
_OTHER: Final = len(_WORDING)
_RANK: Final = re.compile(
    "|".join(f"(?P<k{i}>{_alternatives(words)})" for i, words in enumerate(_WORDING.values()))
)
_REMEMBERED_WORDS: Final = 16_384
_ranks: Final = _Ranks()


def reverted_sha(body: str) -> str | None:
    """Return the sha, maybe short, of the commit that the message says it reverts."""
    found = _REVERTED_SHA.search(body) if "reverts commit" in body else None
    return found[1] if found else None


def reverted_subject(subject: str) -> str | None:
    """Return the subject of the commit that the message says it reverts."""
    found = _REVERTED_SUBJECT.match(subject)
    return found[1] if found else None
