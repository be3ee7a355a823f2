"""Documents of kind ``commit``: messages and patches."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Final

from the_block_llm.pipelines.sequence_build.document import Dropped, RenderedDocument, Segment
from the_block_llm.pipelines.sequence_build.history.commits import Commit
from the_block_llm.pipelines.sequence_build.history.messages import commit_headline, commit_message
from the_block_llm.schemas import Split

_MAX_COMMITS: Final = 12
_MAX_PATHS: Final = 20


@dataclass(frozen=True)
class FileChange:
    """A change to one file."""

    path: str
    old_path: str | None
    status: str
    """Letter of ``git diff --name-status``: A, C, D, M, R or T."""
    patch: str | None
    """Hunks, if the patch was kept."""


def commit_document(
    commit: Commit,
    split: Split,
    changes: Sequence[FileChange],
    rendered_paths: Set[str],
    earlier_commits: Sequence[Commit],
) -> RenderedDocument | Dropped:
    """Render a commit, grouped by file.

    An uninformative message is left out. So is the content of a file that the commit created and
    that also has a ``file`` document: every file would otherwise be trained on twice.

    Args:
        commit: Message and metadata.
        split: Split of the document.
        changes: One entry per file.
        rendered_paths: Paths that have a ``file`` document.
        earlier_commits: Earlier commits that changed the same files, oldest first.

    Returns:
        The document, or that it was dropped because neither message nor patch is left.
    """
    patches = [patch for change in changes if (patch := _render_change(change, rendered_paths))]
    message = commit_message(commit)
    if not message and not any("\n@@" in patch for patch in patches):
        return Dropped("nothing_said_or_shown", commit.sha)
    target = "\n\n".join(part for part in (message, "\n".join(patches)) if part)
    headlines = [f"{c.short_sha} {commit_headline(c)}" for c in earlier_commits]
    context = [f"Earlier changes to these files: {'; '.join(headlines)}\n\n"] if headlines else []
    return _document(commit, split, f"Commit {commit_label(commit)}:\n\n", context, target)


def merge_document(
    merge: Commit, split: Split, merged: Sequence[Commit], paths: Sequence[str]
) -> RenderedDocument | Dropped:
    """Render a merge by its message, which may be the description of a pull request.

    Args:
        merge: The merge commit; it has no patch.
        split: The latest split of the merge and the merged commits.
        merged: The merged commits, oldest first.
        paths: The paths that they changed, most often changed first.

    Returns:
        The document, or that it was dropped because its message repeats that of a commit.
    """
    message = commit_message(merge)
    if not message or any(message in commit_message(commit) for commit in merged):
        return Dropped("merge", merge.sha)
    commits = [
        f"- {commit.short_sha} {headline}"
        for commit in merged
        if (headline := commit_headline(commit))
    ]
    parts = [message]
    if commits:
        parts.append("Commits:\n" + "\n".join(_truncate(commits, _MAX_COMMITS)))
    if paths:
        parts.append("Files:\n" + "\n".join(_truncate([f"- {p}" for p in paths], _MAX_PATHS)))
    return _document(merge, split, f"Merge {commit_label(merge)}:\n\n", [], "\n\n".join(parts))


def commit_label(commit: Commit) -> str:
    """Return sha and date of a commit as documents write them, with its kind if classified."""
    kind = "" if commit.kind in {"other", "merge"} else f" ({commit.kind})"
    return f"{commit.short_sha} of {commit.authored_at:%Y-%m-%d}{kind}"


def _document(
    commit: Commit, split: Split, header: str, context: Sequence[str], target: str
) -> RenderedDocument:
    # The header is a separate, short segment: it is repeated in every row of the document.
    return RenderedDocument(
        document_id=f"commit/{commit.sha}",
        kind="commit",
        split=split,
        source=commit.sha,
        authored_at=commit.authored_at,
        segments=(
            Segment(header, train=False),
            *(Segment(text, train=False) for text in context),
            Segment(f"{target}\n", train=True),
        ),
    )


def _truncate(lines: Sequence[str], limit: int) -> list[str]:
    left = len(lines) - limit
    return [*lines[:limit], *([f"- {left} more"] if left > 0 else [])]


def _render_change(change: FileChange, rendered_paths: Set[str]) -> str:
    old = change.old_path or change.path
    if change.status == "D":
        return f"deleted {change.path}"
    if change.status == "A" and change.path in rendered_paths:
        return f"created {change.path}"
    lines = [f"moved {old} to {change.path}"] if change.status == "R" else []
    if change.patch:
        before = "/dev/null" if change.status == "A" else f"a/{old}"
        lines += [f"--- {before}", f"+++ b/{change.path}", change.patch.rstrip("\n")]
    return "\n".join(lines)
