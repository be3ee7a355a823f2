"""The folder of a run in progress: its checkpoints, and how a later run goes on from them.

A checkpoint counts once it holds a list of its files with their hashes, written last. One that
was cut off while it was written has none, or does not agree with it, and is passed over.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from filelock import BaseFileLock, FileLock, Timeout
from pydantic import BaseModel, ValidationError

from the_block_llm.datasets.parquet_table import write_text_atomically
from the_block_llm.errors import StorageError, TrainingError
from the_block_llm.pipelines.qlora_train.job import TrainingJob, differences
from the_block_llm.pipelines.qlora_train.runtime import distributed

_log = logging.getLogger(__name__)
_FOLDER: Final = ".unfinished"
_RUN: Final = "run.json"
_COMPLETE: Final = "complete.json"


class RunState(BaseModel, extra="forbid"):
    """What must outlive a process besides the checkpoints."""

    decisive: dict[str, Any]
    """:meth:`TrainingJob.decisive` of the job that began here."""
    micro_batch_rows: int
    """Rows that go through a model together; smaller than asked for after memory ran out."""
    out_of_memory: list[dict[str, int]] = []
    """Where memory ran out, and with how many rows at a time it went on."""
    probe_answers: list[dict[str, Any]] = []
    """Answers to the probe questions, one entry an epoch."""


class RunFolder:
    """Checkpoints and state of one unfinished run; made by :func:`open_run`."""

    def __init__(self, path: Path, state: RunState, lock: BaseFileLock | None) -> None:
        """Args: ``lock`` is held by the one process that writes; the others have none."""
        self.path = path
        self.state = state
        self._lock = lock

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of ``step`` lies or would lie."""
        return self.path / f"checkpoint-{step}"

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        complete = complete_checkpoints(self.path)
        return complete[-1] if complete else None

    def mark_complete(self, step: int) -> None:
        """Say that the checkpoint of ``step`` is written; from now on it counts.

        Raises:
            StorageError: There is no room for the mark.
        """
        folder = self.checkpoint(step)
        files = {path.name: _file_hash(path) for path in sorted(folder.iterdir())}
        files.pop(_COMPLETE, None)
        write_text_atomically(folder / _COMPLETE, json.dumps(files, indent=1))

    def prune(self, keep: int, best_step: int | None) -> None:
        """Delete all but the newest ``keep`` checkpoints and the best."""
        complete = complete_checkpoints(self.path)
        for folder in complete[: max(0, len(complete) - keep)]:
            if best_step is None or folder != self.checkpoint(best_step):
                shutil.rmtree(folder, ignore_errors=True)

    def save_state(self) -> None:
        """Write the state, whole or not at all.

        Raises:
            StorageError: The folder cannot be written.
        """
        write_text_atomically(self.path / _RUN, self.state.model_dump_json(indent=1))

    def discard(self) -> None:
        """Remove everything: the run is over."""
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Let another run of the profile have the folder."""
        if self._lock is not None:
            self._lock.release()


def run_path(job: TrainingJob) -> Path:
    """Where the unfinished run of the job's profile lies."""
    return job.work_folder / job.profile.name / _FOLDER


def open_run(job: TrainingJob) -> RunFolder:
    """Find the job's unfinished run, or begin one.

    Raises:
        TrainingError: Another process is training this profile, or an unfinished run of other
            choices lies there.
        StorageError: The folder cannot be written.
    """
    path = run_path(job)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"Cannot make {path} for the checkpoints: {error.strerror}. Make its folder "
            "writable, or set qlora_train.work_folder to another."
        ) from error
    # Beside the folder, which may be removed; the operating system frees it for a killed process.
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TrainingError(
            f"Another process is training {job.profile.name} in {path} now. Wait for it, or "
            "stop it; what it has done is kept."
        ) from None
    try:
        return RunFolder(path, _state(job, path), lock)
    except BaseException:
        lock.release()
        raise


def open_for_all(job: TrainingJob) -> RunFolder:
    """Open the job's run folder; the first process writes there, the others read.

    Raises:
        TrainingError: As :func:`open_run`.
    """
    run = open_run(job) if distributed.is_first() else None
    state = distributed.from_first(run.state if run else None)
    if run is not None:
        return run
    assert state is not None  # noqa: S101  # sent by the first
    return RunFolder(run_path(job), state, lock=None)


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints whose files are all there as they were written, oldest first."""
    return [path for path in _all_checkpoints(folder) if _is_complete(path)]


def _state(job: TrainingJob, path: Path) -> RunState:
    fresh = RunState(decisive=job.decisive(), micro_batch_rows=job.values.micro_batch_rows)
    _remove_torn(path)
    if job.restart_training or not complete_checkpoints(path):
        if job.restart_training and complete_checkpoints(path):
            _log.info("Starting anew; the unfinished run in %s is discarded", path)
        _empty(path)
        write_text_atomically(path / _RUN, fresh.model_dump_json(indent=1))
        return fresh
    found = _read_state(path)
    if found is None:
        raise TrainingError(_refusal(job, path, "it cannot be read what it was to compute"))
    changed = differences(found.decisive, fresh.decisive)
    if changed:
        raise TrainingError(_refusal(job, path, f"changed since: {'; '.join(changed)}"))
    # Less than what memory had room for last time, if less is asked for now.
    found.micro_batch_rows = min(found.micro_batch_rows, fresh.micro_batch_rows)
    return found


def _refusal(job: TrainingJob, path: Path, why: str) -> str:
    step = complete_checkpoints(path)[-1].name.rpartition("-")[2]
    return (
        f"An unfinished run of {job.profile.name} lies in {path}, at step {step}, and this one "
        f"differs from it ({why}). Set back what changed to go on with it, or discard it and "
        "start anew with --params=qlora_train.restart_training=true."
    )


def _read_state(path: Path) -> RunState | None:
    try:
        return RunState.model_validate_json((path / _RUN).read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError):
        return None


def _all_checkpoints(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[11:]))


def _is_complete(checkpoint: Path) -> bool:
    try:
        files: Mapping[str, str] = json.loads((checkpoint / _COMPLETE).read_text(encoding="utf-8"))
        return all(_file_hash(checkpoint / name) == hash_ for name, hash_ in files.items())
    except (OSError, ValueError, AttributeError):
        return False


def _remove_torn(folder: Path) -> None:
    for path in _all_checkpoints(folder):
        if not _is_complete(path):
            _log.warning("%s was cut off while it was written; it is passed over", path.name)
            shutil.rmtree(path, ignore_errors=True)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
