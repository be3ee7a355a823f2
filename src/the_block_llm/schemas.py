"""Schemas of the tables that pipelines exchange, and the sets of values of their columns.

Commits, file changes and files are filled by ``git_ingest``, documents and rows by
``sequence_build``, completions and scores by ``behavioral_eval``.

Text is UTF-8, times are UTC. A filtered row remains in its table, with ``drop_reason`` set and
without its text. The description of each column is stored in the Parquet parts, and shown in
Kedro-Viz and in the data dictionary of the documentation.
"""

from typing import Final, Literal, get_args

import pyarrow as pa

CommitKind = Literal[
    "feature", "fix", "refactor", "perf", "docs", "test", "build", "chore", "revert", "merge",
    "other",
]  # fmt: skip
DropReason = Literal[
    "binary", "too_large", "generated", "vendored", "lock_file", "minified", "undecodable",
    "missing_object", "submodule", "symlink", "pointer", "encrypted", "empty", "licence",
    "secret_file", "duplicate",
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
_DESCRIPTION: Final = "description"


def _required(name: str, type_: pa.DataType, text: str) -> pa.Field:
    return pa.field(name, type_, nullable=False, metadata={_DESCRIPTION: text})


def _optional(name: str, type_: pa.DataType, text: str) -> pa.Field:
    return pa.field(name, type_, metadata={_DESCRIPTION: text})


def description(field: pa.Field) -> str:
    """Return the description of a column."""
    return str((field.metadata or {}).get(_DESCRIPTION.encode(), b"").decode())


COMMITS: Final = pa.schema(
    [
        _required("repo", pa.string(), "name of the repository, unique within a run"),
        _required("sha", pa.string(), "object name (SHA) of the commit"),
        _required("parents", pa.list_(pa.string()), "object names of the parents, in order"),
        _required(
            "author_id",
            pa.string(),
            "keyed hash of the author; name and e-mail address if pseudonymise is off",
        ),
        _required("authored_at", _TIME, "author time; the commit time if it cannot be right"),
        _required(
            "committed_at",
            _TIME,
            "commit time; compared with the cut-off. One that is before a parent's, in the future "
            "or after 2099 is replaced by the nearest that agrees with the history",
        ),
        _required("tz_offset_min", pa.int16(), "UTC offset of the author time, in minutes"),
        _required("subject", pa.string(), "first paragraph of the message, joined to one line"),
        _required("body", pa.string(), "rest of the message"),
        _required("kind", pa.string(), "one of COMMIT_KINDS"),
        _required("is_merge", pa.bool_(), "true if the commit has more than one parent"),
        _optional("reverts", pa.string(), "sha of the commit that this one reverts"),
        _required("is_bot", pa.bool_(), "true if the author is a bot"),
        _required(
            "informative",
            pa.bool_(),
            "false if the subject does not describe the change; it is then not a training target",
        ),
        _required(
            "files_changed", pa.int32(), "number of files; 0 for merges, which have no patch"
        ),
        _required("insertions", pa.int64(), "number of added lines"),
        _required("deletions", pa.int64(), "number of deleted lines"),
    ]
)

FILE_CHANGES: Final = pa.schema(
    [
        _required("repo", pa.string(), "name of the repository, as in commits"),
        _required("sha", pa.string(), "object name of the commit"),
        _required("path", pa.string(), "path after the change"),
        _optional("old_path", pa.string(), "path before the change; set for R and C"),
        _required(
            "status",
            pa.string(),
            "one of CHANGE_STATUSES: added, modified, deleted, renamed, copied, type changed",
        ),
        _optional("similarity", pa.int16(), "similarity index in percent; set for R and C"),
        _optional("language", pa.string(), "language by file name; null if unknown"),
        _optional("additions", pa.int64(), "number of added lines; null for binary files"),
        _optional("deletions", pa.int64(), "number of deleted lines; null for binary files"),
        _optional(
            "patch",
            pa.string(),
            'hunks, from the first "@@", without binary data; null if filtered',
        ),
        _optional(
            "encoding",
            pa.string(),
            "original encoding of the patch; of its old and new side where they differ, as in "
            "cp1252/utf-8",
        ),
        _required("kept", pa.bool_(), "false if filtered; see drop_reason"),
        _optional("drop_reason", pa.string(), "one of DROP_REASONS"),
        _required(
            "redactions", pa.int32(), "number of secrets replaced by placeholders in the text"
        ),
    ]
)

SNAPSHOT_FILES: Final = pa.schema(
    [
        _required("repo", pa.string(), "name of the repository, as in commits"),
        _required("sha", pa.string(), "object name of the commit of this tree"),
        _required("path", pa.string(), "path in the tree"),
        _optional("language", pa.string(), "language by file name; null if unknown"),
        _required("size_bytes", pa.int64(), "size of the git blob in bytes"),
        _optional(
            "text", pa.string(), "content of the file, without binary data; null if filtered"
        ),
        _required("kept", pa.bool_(), "false if filtered; see drop_reason"),
        _optional("drop_reason", pa.string(), "one of DROP_REASONS"),
        _required(
            "redactions", pa.int32(), "number of secrets replaced by placeholders in the text"
        ),
    ]
)

_SEGMENT = pa.struct(
    [
        _required("text", pa.string(), "text of the segment"),
        _required("train", pa.bool_(), "false if the segment is context only, not a target"),
    ]
)

DOCUMENTS: Final = pa.schema(
    [
        _required("document_id", pa.string(), "identifier of the document in rows and reports"),
        _required("kind", pa.string(), "one of DOCUMENT_KINDS"),
        _required("split", pa.string(), "one of SPLITS"),
        _required("source", pa.string(), "path of the file or sha of the commit"),
        _required("authored_at", _TIME, "time at which the content was written"),
        _required(
            "segments",
            pa.list_(_SEGMENT),
            "segments of text, in order; special tokens are in input_ids only",
        ),
        _optional(
            "input_ids",
            pa.list_(pa.int32()),
            "complete model input, with start and end tokens and chat template",
        ),
        _optional("labels_mask", pa.list_(pa.bool_()), "true if the token is a target"),
        _required("n_tokens", pa.int32(), "number of tokens in input_ids"),
        _required("stage", pa.int16(), "curriculum stage; 0 without a curriculum"),
    ]
)

ROWS: Final = pa.schema(
    [
        _required("input_ids", pa.list_(pa.int32()), "concatenated tokens of all segments"),
        _required("labels_mask", pa.list_(pa.bool_()), "true if the token is a target"),
        _required(
            "segment_lengths",
            pa.list_(pa.int32()),
            "tokens of each segment; their sum is n_tokens, attention does not cross segments",
        ),
        _required("document_ids", pa.list_(pa.string()), "document_id of each segment"),
        _required("n_tokens", pa.int32(), "number of tokens in the row, at most context_tokens"),
        _required("stage", pa.int16(), "curriculum stage; 0 without a curriculum"),
    ]
)

COMPLETIONS: Final = pa.schema(
    [
        _required("key", pa.string(), "hash of all inputs that determine the completion"),
        _required("suite", pa.string(), "file name of the suite, without .yml"),
        _required("probe_id", pa.string(), "identifier of the probe"),
        _required(
            "arm",
            pa.string(),
            "one of the four arms, or a further model (profile@version, profile@base)",
        ),
        _required("seed", pa.int32(), "seed of the sampler; without effect for greedy decoding"),
        _required("prompt", pa.string(), "complete prompt, including chat template tokens"),
        _required(
            "retrieved", pa.list_(pa.string()), "sources of the passages retrieved for the prompt"
        ),
        _required("completion", pa.string(), "generated text, without the prompt"),
        _required("finish", pa.string(), "finish reason: stop or length"),
        _required("n_prompt_tokens", pa.int32(), "number of tokens in prompt"),
        _required("n_tokens", pa.int32(), "number of tokens in completion"),
        _required("settings", pa.string(), "sampling parameters, as JSON"),
    ]
)

ITEM_SCORES: Final = pa.schema(
    [
        _required("key", pa.string(), "hash of all inputs that determine the score"),
        _required("task", pa.string(), "name of the task"),
        _required("item_id", pa.string(), "identifier of the item"),
        _required(
            "cluster",
            pa.string(),
            "commit or file of the item; items of a cluster are resampled together",
        ),
        _required(
            "arm",
            pa.string(),
            "one of the four arms, or a further model (profile@version, profile@base)",
        ),
        _required("value", pa.float64(), "bits, or 1 for correct and 0 for incorrect"),
        _required("weight", pa.float64(), "bytes that the bits encode, or 1"),
        _required("detail", pa.string(), "details of the task, as JSON"),
    ]
)
