"""Documents of the kind ``commit``: what was said and what was changed."""

from collections.abc import Sequence, Set
from dataclasses import dataclass

from the_block_llm.pipelines.sequence_build.drafts import Draft, Dropped, Segment
from the_block_llm.pipelines.sequence_build.history import Commit
from the_block_llm.schemas import Split


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
    message = f"{commit.subject}\n\n{commit.body}".strip() if commit.informative else ""
    if not message and not any("\n@@" in block for block in patches):
        return Dropped("nothing_said_or_shown", commit.sha)
    learned = "\n\n".join(part for part in (message, "\n".join(patches)) if part)
    return Draft(
        document_id=f"commit/{commit.sha}",
        kind="commit",
        split=split,
        source=commit.sha,
        authored_at=commit.authored_at,
        segments=(_head(commit, earlier), Segment(f"{learned}\n", train=True)),
    )


def _head(commit: Commit, earlier: Sequence[Commit]) -> Segment:
    lines = [f"Commit {commit.short_sha} of {commit.authored_at:%Y-%m-%d} ({commit.kind}):"]
    if earlier:
        named = "; ".join(f"{c.short_sha} {c.subject.strip()}" for c in earlier)
        lines.append(f"Earlier changes to these files: {named}")
    return Segment("\n".join(lines) + "\n\n", train=False)


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
