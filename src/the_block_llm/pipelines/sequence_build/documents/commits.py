"""Documents of the kind ``commit``: what was said and what was changed."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Final

from the_block_llm.pipelines.sequence_build.document import Draft, Dropped, Segment
from the_block_llm.pipelines.sequence_build.history.commits import Commit
from the_block_llm.pipelines.sequence_build.history.messages import headline_of, message_of
from the_block_llm.schemas import Split

_COMMITS_LISTED: Final = 12
_PATHS_LISTED: Final = 20


@dataclass(frozen=True)
class FileChange:
    """A change to one file; ``patch`` is none where it was not kept."""

    path: str
    old_path: str | None
    status: str
    patch: str | None


def commit_document(
    commit: Commit,
    split: Split,
    changes: Sequence[FileChange],
    shown_whole: Set[str],
    earlier: Sequence[Commit],
) -> Draft | Dropped:
    """Render a commit, grouped by file.

    A message that says nothing is left out. So is the body of a file that the commit created
    and that a ``file`` document shows anyway, or every file would be learned twice.

    Args:
        commit: Message and facts.
        split: Side of the cut-off.
        changes: One entry a file.
        shown_whole: Paths that have a ``file`` document.
        earlier: Changes to the same files before this one, oldest first.

    Returns:
        The document, or that it was dropped, where neither message nor patch is left.
    """
    patches = [block for change in changes if (block := _block(change, shown_whole))]
    message = message_of(commit)
    if not message and not any("\n@@" in block for block in patches):
        return Dropped("nothing_said_or_shown", commit.sha)
    learned = "\n\n".join(part for part in (message, "\n".join(patches)) if part)
    named = [f"{c.short_sha} {headline_of(c)}" for c in earlier]
    before = [f"Earlier changes to these files: {'; '.join(named)}\n\n"] if named else []
    return _draft(commit, split, f"Commit {dated(commit)}:\n\n", before, learned)


def merge_document(
    merge: Commit, split: Split, brought: Sequence[Commit], paths: Sequence[str]
) -> Draft | Dropped:
    """Render a merge by what its author says of it, as in the description of a pull request.

    Args:
        merge: It has no patch of its own.
        split: The latest side that it or what it brought is on.
        brought: The commits that came in with it, oldest first.
        paths: What these changed, most often changed first.

    Returns:
        The document, or that it was dropped, where the merge says no more than its commits.
    """
    message = message_of(merge)
    if not message or any(message in message_of(commit) for commit in brought):
        return Dropped("merge", merge.sha)
    commits = [
        f"- {commit.short_sha} {subject}" for commit in brought if (subject := headline_of(commit))
    ]
    parts = [message]
    if commits:
        parts.append("Commits:\n" + "\n".join(_first(commits, _COMMITS_LISTED)))
    if paths:
        parts.append("Files:\n" + "\n".join(_first([f"- {p}" for p in paths], _PATHS_LISTED)))
    return _draft(merge, split, f"Merge {dated(merge)}:\n\n", [], "\n\n".join(parts))


def dated(commit: Commit) -> str:
    """How documents name a commit, with its kind where the message tells it."""
    kind = "" if commit.kind in {"other", "merge"} else f" ({commit.kind})"
    return f"{commit.short_sha} of {commit.authored_at:%Y-%m-%d}{kind}"


def _draft(commit: Commit, split: Split, head: str, shown: Sequence[str], learned: str) -> Draft:
    # The head alone is repeated where the document goes on, so it is short.
    return Draft(
        document_id=f"commit/{commit.sha}",
        kind="commit",
        split=split,
        source=commit.sha,
        authored_at=commit.authored_at,
        segments=(
            Segment(head, train=False),
            *(Segment(text, train=False) for text in shown),
            Segment(f"{learned}\n", train=True),
        ),
    )


def _first(lines: Sequence[str], most: int) -> list[str]:
    left = len(lines) - most
    return [*lines[:most], *([f"- {left} more"] if left > 0 else [])]


def _block(change: FileChange, shown_whole: Set[str]) -> str:
    old = change.old_path or change.path
    if change.status == "D":
        return f"deleted {change.path}"
    if change.status == "A" and change.path in shown_whole:
        return f"created {change.path}"
    lines = [f"moved {old} to {change.path}"] if change.status == "R" else []
    if change.patch:
        before = "/dev/null" if change.status == "A" else f"a/{old}"
        lines += [f"--- {before}", f"+++ b/{change.path}", change.patch.rstrip("\n")]
    return "\n".join(lines)
