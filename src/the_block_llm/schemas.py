"""The tables that pass between pipelines, and the closed sets of values in them.

Text is UTF-8, times are UTC. A row that is not kept stays in its table with
``drop_reason`` set and without its text.
"""

from typing import Final, Literal, get_args

import pyarrow as pa

CommitKind = Literal[
    "feature", "fix", "refactor", "perf", "docs", "test", "build", "chore", "revert", "merge",
    "other",
]  # fmt: skip
DropReason = Literal[
    "binary", "too_large", "generated", "vendored", "lock_file", "minified", "undecodable",
    "missing_object", "submodule", "symlink", "empty", "licence", "secret_file", "duplicate",
]  # fmt: skip
ChangeStatus = Literal["A", "M", "D", "R", "C", "T"]
DocumentKind = Literal["file", "commit", "chat"]
Split = Literal["train", "validation", "held_out"]

COMMIT_KINDS: Final[tuple[str, ...]] = get_args(CommitKind)
DROP_REASONS: Final[tuple[str, ...]] = get_args(DropReason)
CHANGE_STATUSES: Final[tuple[str, ...]] = get_args(ChangeStatus)
DOCUMENT_KINDS: Final[tuple[str, ...]] = get_args(DocumentKind)
SPLITS: Final[tuple[str, ...]] = get_args(Split)

_TIME = pa.timestamp("s", tz="UTC")


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


COMMITS: Final = pa.schema(
    [
        _required("repo", pa.string()),
        _required("sha", pa.string()),
        _required("parents", pa.list_(pa.string())),
        _required("author_id", pa.string()),
        _required("authored_at", _TIME),
        _required("committed_at", _TIME),
        _required("tz_offset_min", pa.int16()),  # of the author, minutes east of UTC
        _required("subject", pa.string()),
        _required("body", pa.string()),
        _required("kind", pa.string()),  # CommitKind
        _required("is_merge", pa.bool_()),
        pa.field("reverts", pa.string()),  # sha of the commit that this one undoes
        _required("is_bot", pa.bool_()),
        _required("informative", pa.bool_()),  # false: the subject says nothing of the change
        _required("files_changed", pa.int32()),  # 0 for merges, which carry no patch
        _required("insertions", pa.int64()),  # lines
        _required("deletions", pa.int64()),  # lines
    ]
)

FILE_CHANGES: Final = pa.schema(
    [
        _required("repo", pa.string()),
        _required("sha", pa.string()),
        _required("path", pa.string()),
        pa.field("old_path", pa.string()),  # set for R and C
        _required("status", pa.string()),  # ChangeStatus
        pa.field("similarity", pa.int16()),  # percent, set for R and C
        pa.field("language", pa.string()),
        pa.field("additions", pa.int64()),  # lines; null for binary content
        pa.field("deletions", pa.int64()),
        pa.field("patch", pa.string()),  # hunks only, from the first "@@"; null if not kept
        pa.field("encoding", pa.string()),
        _required("kept", pa.bool_()),
        pa.field("drop_reason", pa.string()),  # DropReason
        _required("redactions", pa.int32()),  # marks that stand in the text for secrets
    ]
)

SNAPSHOT_FILES: Final = pa.schema(
    [
        _required("repo", pa.string()),
        _required("sha", pa.string()),  # the commit whose tree this is
        _required("path", pa.string()),
        pa.field("language", pa.string()),
        _required("size_bytes", pa.int64()),
        pa.field("text", pa.string()),
        _required("kept", pa.bool_()),
        pa.field("drop_reason", pa.string()),  # DropReason
        _required("redactions", pa.int32()),
    ]
)

_SEGMENT = pa.struct([_required("text", pa.string()), _required("train", pa.bool_())])

DOCUMENTS: Final = pa.schema(
    [
        _required("document_id", pa.string()),
        _required("kind", pa.string()),  # DocumentKind
        _required("split", pa.string()),  # Split
        _required("source", pa.string()),  # path or sha
        _required("authored_at", _TIME),
        _required("segments", pa.list_(_SEGMENT)),  # what is written; marks are in input_ids only
        # As the profile's model reads it, whole: start and end marks, chat template.
        pa.field("input_ids", pa.list_(pa.int32())),
        pa.field("labels_mask", pa.list_(pa.bool_())),  # true: this token is a target
        _required("n_tokens", pa.int32()),
        _required("stage", pa.int16()),  # curriculum stage, 0 where there is none
    ]
)

ROWS: Final = pa.schema(
    [
        _required("input_ids", pa.list_(pa.int32())),
        _required("labels_mask", pa.list_(pa.bool_())),  # true: this token is a target
        _required("segment_lengths", pa.list_(pa.int32())),  # sums to n_tokens
        _required("document_ids", pa.list_(pa.string())),  # one a segment
        _required("n_tokens", pa.int32()),
        _required("stage", pa.int16()),
    ]
)

COMPLETIONS: Final = pa.schema(
    [
        _required("key", pa.string()),  # hash of everything that decides the answer
        _required("suite", pa.string()),
        _required("probe_id", pa.string()),
        _required("arm", pa.string()),
        _required("seed", pa.int32()),
        _required("prompt", pa.string()),  # as the model saw it, chat marks included
        _required("retrieved", pa.list_(pa.string())),  # sources put before the question
        _required("completion", pa.string()),  # the answer alone
        _required("finish", pa.string()),  # stop or length
        _required("n_prompt_tokens", pa.int32()),
        _required("n_tokens", pa.int32()),
        _required("settings", pa.string()),  # JSON
    ]
)

ITEM_SCORES: Final = pa.schema(
    [
        _required("key", pa.string()),  # hash of everything that decides the score
        _required("task", pa.string()),
        _required("item_id", pa.string()),
        _required("cluster", pa.string()),  # items of one commit or file stand or fall together
        _required("arm", pa.string()),
        _required("value", pa.float64()),  # bits, or 1 for right and 0 for wrong
        _required("weight", pa.float64()),  # bytes that the bits encode, or 1
        _required("detail", pa.string()),  # JSON, of the task
    ]
)
