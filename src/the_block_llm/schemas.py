"""The tables that pass between pipelines, and the closed sets of values in them.

Text is UTF-8, times are UTC. A row that is not kept stays in its table with
``drop_reason`` set and without its text. Each column carries its description, which the parts
on disk, Kedro-Viz and the data dictionary of the documentation show.
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
SPLITS: Final[tuple[Split, ...]] = get_args(Split)

_TIME = pa.timestamp("s", tz="UTC")
_SAYS: Final = "description"


def _required(name: str, kind: pa.DataType, says: str) -> pa.Field:
    return pa.field(name, kind, nullable=False, metadata={_SAYS: says})


def _optional(name: str, kind: pa.DataType, says: str) -> pa.Field:
    return pa.field(name, kind, metadata={_SAYS: says})


def description(field: pa.Field) -> str:
    """What a column of one of these tables holds."""
    return str((field.metadata or {}).get(_SAYS.encode(), b"").decode())


COMMITS: Final = pa.schema(
    [
        _required("repo", pa.string(), "name of the repository, unique within a run"),
        _required("sha", pa.string(), "object name of the commit"),
        _required(
            "parents", pa.list_(pa.string()), "object names of its parents, first parent first"
        ),
        _required(
            "author_id",
            pa.string(),
            "keyed hash of the author; name and address where pseudonymise is off",
        ),
        _required("authored_at", _TIME, "author time"),
        _required("committed_at", _TIME, "commit time; what the cut-off compares"),
        _required("tz_offset_min", pa.int16(), "time zone of the author, minutes east of UTC"),
        _required("subject", pa.string(), "first paragraph of the message, on one line"),
        _required("body", pa.string(), "rest of the message"),
        _required("kind", pa.string(), "one of COMMIT_KINDS"),
        _required("is_merge", pa.bool_(), "more than one parent"),
        _optional("reverts", pa.string(), "sha of the commit that this one undoes"),
        _required("is_bot", pa.bool_(), "written by a program"),
        _required(
            "informative",
            pa.bool_(),
            "false: the subject says nothing of the change, and is no training target",
        ),
        _required("files_changed", pa.int32(), "files; 0 for merges, which carry no patch"),
        _required("insertions", pa.int64(), "lines"),
        _required("deletions", pa.int64(), "lines"),
    ]
)

FILE_CHANGES: Final = pa.schema(
    [
        _required("repo", pa.string(), "as in commits"),
        _required("sha", pa.string(), "the commit"),
        _required("path", pa.string(), "path after the change"),
        _optional("old_path", pa.string(), "path before it, set for R and C"),
        _required(
            "status",
            pa.string(),
            "one of CHANGE_STATUSES: added, modified, deleted, renamed, copied, type changed",
        ),
        _optional("similarity", pa.int16(), "percent, set for R and C"),
        _optional("language", pa.string(), "language by the file's name; null where unknown"),
        _optional("additions", pa.int64(), "lines; null for binary content"),
        _optional("deletions", pa.int64(), "lines; null for binary content"),
        _optional("patch", pa.string(), 'hunks only, from the first "@@"; null where not kept'),
        _optional("encoding", pa.string(), "of the patch before it became UTF-8"),
        _required("kept", pa.bool_(), "false: left out, with a reason"),
        _optional("drop_reason", pa.string(), "one of DROP_REASONS"),
        _required("redactions", pa.int32(), "marks that stand in the text for secrets"),
    ]
)

SNAPSHOT_FILES: Final = pa.schema(
    [
        _required("repo", pa.string(), "as in commits"),
        _required("sha", pa.string(), "the commit whose tree this is"),
        _required("path", pa.string(), "path in that tree"),
        _optional("language", pa.string(), "language by the file's name; null where unknown"),
        _required("size_bytes", pa.int64(), "bytes of the file as stored by git"),
        _optional("text", pa.string(), "the content; null where not kept"),
        _required("kept", pa.bool_(), "false: left out, with a reason"),
        _optional("drop_reason", pa.string(), "one of DROP_REASONS"),
        _required("redactions", pa.int32(), "marks that stand in the text for secrets"),
    ]
)

_SEGMENT = pa.struct(
    [
        _required("text", pa.string(), "a stretch of the document"),
        _required("train", pa.bool_(), "false: shown, and never a target"),
    ]
)

DOCUMENTS: Final = pa.schema(
    [
        _required("document_id", pa.string(), "names the document in rows and reports"),
        _required("kind", pa.string(), "one of DOCUMENT_KINDS"),
        _required("split", pa.string(), "one of SPLITS"),
        _required("source", pa.string(), "path of the file or sha of the commit"),
        _required("authored_at", _TIME, "when what it says was written"),
        _required(
            "segments",
            pa.list_(_SEGMENT),
            "what is written, in order; marks of the tokenizer stand in input_ids only",
        ),
        _optional(
            "input_ids",
            pa.list_(pa.int32()),
            "as the model reads it, whole: start and end marks, chat template",
        ),
        _optional("labels_mask", pa.list_(pa.bool_()), "true: this token is a target"),
        _required("n_tokens", pa.int32(), "tokens in input_ids"),
        _required("stage", pa.int16(), "curriculum stage, 0 where there is none"),
    ]
)

ROWS: Final = pa.schema(
    [
        _required("input_ids", pa.list_(pa.int32()), "tokens of all segments, one after the other"),
        _required("labels_mask", pa.list_(pa.bool_()), "true: this token is a target"),
        _required(
            "segment_lengths",
            pa.list_(pa.int32()),
            "tokens of each segment; they sum to n_tokens, and attention does not cross them",
        ),
        _required("document_ids", pa.list_(pa.string()), "the document of each segment"),
        _required("n_tokens", pa.int32(), "tokens in the row, at most context_tokens"),
        _required("stage", pa.int16(), "curriculum stage, 0 where there is none"),
    ]
)

COMPLETIONS: Final = pa.schema(
    [
        _required("key", pa.string(), "hash of everything that decides the answer"),
        _required("suite", pa.string(), "file of the suite, without .yml"),
        _required("probe_id", pa.string(), "the question"),
        _required("arm", pa.string(), "base, base_retrieval, tuned or tuned_retrieval"),
        _required("seed", pa.int32(), "of the sampling; 0 for greedy answers"),
        _required("prompt", pa.string(), "as the model saw it, chat marks included"),
        _required("retrieved", pa.list_(pa.string()), "sources put before the question"),
        _required("completion", pa.string(), "the answer alone"),
        _required("finish", pa.string(), "stop or length"),
        _required("n_prompt_tokens", pa.int32(), "tokens in prompt"),
        _required("n_tokens", pa.int32(), "tokens in completion"),
        _required("settings", pa.string(), "JSON: how the answer was decoded"),
    ]
)

ITEM_SCORES: Final = pa.schema(
    [
        _required("key", pa.string(), "hash of everything that decides the score"),
        _required("task", pa.string(), "what is measured"),
        _required("item_id", pa.string(), "the item"),
        _required("cluster", pa.string(), "items of one commit or file stand or fall together"),
        _required("arm", pa.string(), "base, base_retrieval, tuned or tuned_retrieval"),
        _required("value", pa.float64(), "bits, or 1 for right and 0 for wrong"),
        _required("weight", pa.float64(), "bytes that the bits encode, or 1"),
        _required("detail", pa.string(), "JSON, of the task"),
    ]
)
