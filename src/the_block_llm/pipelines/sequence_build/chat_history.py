"""Questions about the history: why a change was made, and what changes together."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from the_block_llm.pipelines.sequence_build.chat_documents import (
    chat_document,
    choose_wording,
    listed,
)
from the_block_llm.pipelines.sequence_build.commit_documents import FileChange
from the_block_llm.pipelines.sequence_build.drafts import Draft, Dropped
from the_block_llm.pipelines.sequence_build.history import Commit
from the_block_llm.schemas import Split

_PATHS_NAMED: Final = 3
_MOST_CHARACTERS: Final = 1600  # of a message; a longer one is learned with its patch only
_MOST_FILES: Final = 30  # a commit of more is a sweep, and ties nothing together
_FEWEST_TOGETHER: Final = 3
_FEWEST_SHARE: Final = 0.3
_WHY: Final = (
    "What did commit {sha} change, and why?",
    "Why was {path} changed in commit {sha}?",
    "Explain the change that commit {sha} made to {path}.",
)
_TOGETHER: Final = (
    "What else usually changes when {path} changes?",
    "I am about to change {path}. Which other files should I look at?",
    "Which files does the history tie to {path}?",
)


def commit_chat(
    commit: Commit, split: Split, changes: Sequence[FileChange], seed: int
) -> Draft | Dropped | None:
    """Ask why a change was made; none where its message does not say."""
    if not commit.informative or commit.is_merge or commit.is_bot or not changes:
        return None
    message = f"{commit.subject.strip()}\n\n{commit.body.strip()}".strip()
    if len(message) > _MOST_CHARACTERS:
        return Dropped("answer_too_long", commit.sha)
    paths = sorted(change.path for change in changes)
    answer = (
        f"Commit {commit.short_sha} of {commit.authored_at:%Y-%m-%d} ({commit.kind}): {message}"
        f"\n\nIt changed {listed(paths, _PATHS_NAMED)} "
        f"(+{commit.insertions}, -{commit.deletions} lines)."
    )
    question = choose_wording(_WHY, commit.sha, seed).format(sha=commit.short_sha, path=paths[0])
    return chat_document("why", commit.sha, split, commit.sha, commit.authored_at, question, answer)


def together_chats(
    paths_of: Mapping[str, Sequence[str]],
    commits: Sequence[Commit],
    existing: frozenset[str],
    written_at: datetime,
    seed: int,
) -> Iterator[Draft]:
    """Ask what else changes with a file, from the commits that are trained on.

    Args:
        paths_of: Changed paths by sha.
        commits: Those on the training side.
        existing: Paths of the training snapshot; others are not asked about.
        written_at: The cut-off.
        seed: Of the wording.
    """
    times: Counter[str] = Counter()
    together: dict[str, Counter[str]] = defaultdict(Counter)
    for commit in commits:
        paths = [path for path in paths_of.get(commit.sha, ()) if path in existing]
        if commit.is_merge or not 1 < len(paths) <= _MOST_FILES:
            continue
        for path in paths:
            times[path] += 1
            together[path].update(other for other in paths if other != path)
    for path in sorted(together):
        tied = sorted(
            (
                (count, other)
                for other, count in together[path].items()
                if count >= _FEWEST_TOGETHER and count >= _FEWEST_SHARE * times[path]
            ),
            key=lambda pair: (-pair[0], pair[1]),
        )
        if not tied:
            continue
        lines = [f"- {other}, in {count} of them" for count, other in tied[:5]]
        answer = (
            f"{path} was changed together with other files in {times[path]} commits:\n"
            + "\n".join(lines)
        )
        question = choose_wording(_TOGETHER, path, seed).format(path=path)
        yield chat_document("together", path, "train", path, written_at, question, answer)
