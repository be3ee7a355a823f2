"""Exceptions for errors that the user can fix.

A message states what happened, names the input and the limit, and gives the remedy. The command
line prints it as one line, without a traceback, and exits with code 1.
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from the_block_llm.os_errors import explain, is_environment_error, path_of


class BlockError(Exception):
    """Base class of the errors that the user can fix."""


class ParameterError(BlockError):
    """A parameter is missing, misspelled, of the wrong type or out of range."""


class RepositoryError(BlockError):
    """The repository cannot be opened or read, or git is not installed."""


class TooLittleDataError(BlockError):
    """There is not enough history or text for the requested operation."""


class StaleDataError(BlockError):
    """A stored table or file was written with other parameters or by another version."""


class StorageError(BlockError):
    """A storage location cannot be used: unreachable, read-only, full, or not a folder."""


class InUseError(StorageError):
    """Another process is using a folder or file that one process at a time may change."""


class TableError(StorageError):
    """A stored table or report is missing, incomplete or has another schema."""


class TableReplacedError(TableError):
    """Another process is replacing tables, or has replaced one while it was read."""


class ProfileError(BlockError):
    """A model profile is unknown, inconsistent, or its model is not supported."""


class ModelUnavailableError(BlockError):
    """The weights or the tokenizer of a profile are not available."""


class AdapterTargetError(BlockError):
    """A LoRA target matches no layer of the model."""


class AdapterError(BlockError):
    """An adapter folder is missing, incomplete or belongs to another base model."""


class TrainingError(BlockError):
    """Training cannot start or was aborted."""


class MemoryPlanError(TrainingError):
    """No training configuration fits the available memory; the message names one that would."""


class WorkerOutOfMemoryError(TrainingError):
    """A worker process ran out of memory; all workers restart with smaller micro-batches."""

    def __init__(self, message: str, rows: int | None = None) -> None:
        """Initialize the error.

        Args:
            message: Text for the user.
            rows: Rows per forward pass to restart with, if known.
        """
        super().__init__(message)
        self.rows = rows


class StoppedOnRequest(BlockError):  # noqa: N818  # not an error
    """The run stopped on request; the command line exits with ``exit_code``."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ChunkTooLongError(BlockError):
    """A chunk of a document is longer than a row."""


class SuiteError(BlockError):
    """A probe suite file is invalid; the message names file, line and field."""


class RoleError(BlockError):
    """The operation is not supported by the role of the model's profile."""


class PromptError(BlockError):
    """A question or a code snippet is empty or longer than the model's limit."""


class ServerError(BlockError):
    """The server cannot start with the given options."""


class ExecutionError(BlockError):
    """The execution engine is not available: not installed, or unreachable."""


class GraphSiteError(BlockError):
    """The pipeline graph cannot be built or served as a static site."""


class ExportError(BlockError):
    """The output of an exported model differs from that of the adapter."""


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Suggest the most similar of the known names, for an error message; empty if none is similar.

    >>> did_you_mean("qlora", ["git_ingest", "qlora_train"])
    ' Did you mean qlora_train?'
    """
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {prefix}{matches[0]}?" if matches else ""


@contextmanager
def stored_data(what: str, remedy: str) -> Iterator[None]:
    """Report content that does not have the expected form as :class:`StaleDataError`.

    To be used around the lines that take apart what another stage or version stored, since only
    there a missing key or a wrong type is the fault of the data.

    Args:
        what: The file or dataset, as the subject of the message.
        remedy: A sentence that says how to write it again.

    >>> with stored_data("The report", "Run it again."):
    ...     {}["warnings"]
    Traceback (most recent call last):
    the_block_llm.errors.StaleDataError: The report was written by another version of this \
project, or is damaged (KeyError: 'warnings'). Run it again.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        cause = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise StaleDataError(
            f"{what} was written by another version of this project, or is damaged ({cause}). "
            f"{remedy}"
        ) from error


def user_error_cause(error: BaseException) -> BlockError | None:
    """Return the error that the user can fix in the cause chain of ``error``, if there is one.

    Kedro wraps errors of datasets. An error of the operating system that no place expected, such as
    a disk that is full, becomes a StorageError; a missing file does not, as it may be a bug.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, BlockError):
        if is_environment_error(cause):
            path = path_of(cause)
            what = f"Cannot use {path}" if path else "An operation of the system failed"
            return StorageError(f"{what}: {explain(cause)}")
        cause = cause.__cause__
    return cause
