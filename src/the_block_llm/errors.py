"""Everything that can go wrong in a way the user can mend, as one exception tree.

A message says what happened, names the input and the limit, and gives the remedy.
The command line prints it as one line and exits with code 1; it never shows a traceback.
"""

import difflib
from collections.abc import Iterable


class BlockError(Exception):
    """Base of every error that is the user's to mend."""


class ParameterError(BlockError):
    """A parameter is missing, misspelt, of the wrong type or out of range."""


class RepositoryError(BlockError):
    """The repository cannot be opened or read, or git itself is missing."""


class TooLittleDataError(BlockError):
    """There is not enough history or text to do what was asked."""


class StaleDataError(BlockError):
    """A table on disk was made with other choices than the ones now in force."""


class StorageError(BlockError):
    """A folder cannot be written: read-only, full, or the wrong kind of thing."""


class TableError(StorageError):
    """A table on disk is missing, incomplete or of another schema."""


class ProfileError(BlockError):
    """A model profile is unknown or contradicts itself."""


class ModelUnavailableError(BlockError):
    """The weights or the tokenizer of a profile cannot be had."""


class AdapterTargetError(BlockError):
    """A LoRA target matches no layer of the model."""


class AdapterError(BlockError):
    """An adapter folder is missing, incomplete or made for another base model."""


class TrainingError(BlockError):
    """Training cannot start, or had to stop."""


class MemoryPlanError(TrainingError):
    """No way of training fits the memory there is; the message says what would."""


class WorkerOutOfMemoryError(TrainingError):
    """One of several processes ran out of memory; all of them begin again with fewer rows."""

    def __init__(self, message: str, rows: int | None = None) -> None:
        """Say it, and with how many ``rows`` at a time, where that is known."""
        super().__init__(message)
        self.rows = rows


class StoppedOnRequest(BlockError):  # noqa: N818  # nothing went wrong
    """The run ended where it was asked to; the command line exits with ``exit_code``."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ChunkTooLongError(BlockError):
    """A piece of a document is longer than a row."""


class SuiteError(BlockError):
    """A probe suite file is wrong; the message names file, line and field."""


class RoleError(BlockError):
    """A model was asked for what its profile cannot do."""


class PromptError(BlockError):
    """A question or a piece of code is empty or longer than the model takes."""


class ServerError(BlockError):
    """The server cannot start as it was asked to."""


class ExecutionError(BlockError):
    """The engine that jobs should run on cannot be had: not installed, or out of reach."""


class GraphSiteError(BlockError):
    """The graph cannot be built or served as a site."""


class ExportError(BlockError):
    """An exported model does not answer as the adapter does."""


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """A sentence for a message about ``name``, which is none of ``known``; empty if none is near.

    >>> did_you_mean("qlora", ["git_ingest", "qlora_train"])
    ' Did you mean qlora_train?'
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {prefix}{near[0]}?" if near else ""


def user_error_cause(error: BaseException) -> BlockError | None:
    """The error of this tree behind ``error``: Kedro wraps what a dataset raises in its own."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, BlockError):
        cause = cause.__cause__
    return cause
