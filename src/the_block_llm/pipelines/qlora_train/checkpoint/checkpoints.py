"""The folder of an unfinished run: its state and checkpoints, from which it is resumed.

A checkpoint is complete if it has a list of its files whose checksums match. The list is written
last, after the files are on disk, so a partially written or damaged checkpoint is detected and
skipped.
"""

import logging
import shutil
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from the_block_llm.errors import InUseError, StorageError, TrainingError
from the_block_llm.files.checksums import (
    describe_files,
    find_damage,
    json_with_checksum,
    parse_json_with_checksum,
)
from the_block_llm.files.durable_files import sync_tree, write_durably
from the_block_llm.locks.process_lock import ProcessLock
from the_block_llm.os_errors import explain
from the_block_llm.pipelines.qlora_train.job import TrainingJob, describe_differences
from the_block_llm.pipelines.qlora_train.runtime import distributed

_log = logging.getLogger(__name__)
_FOLDER_NAME: Final = ".unfinished"
_STATE_FILE: Final = "run.json"
_FILES_FILE: Final = "complete.json"


class RunState(BaseModel, extra="forbid"):
    """State of a run that is not part of its checkpoints."""

    decisive: dict[str, Any]
    """:meth:`TrainingJob.decisive_settings` of the job that started the run."""
    micro_batch_rows: int
    """Rows of a forward pass; reduced from the job's value after running out of memory."""
    out_of_memory: list[dict[str, int]] = []
    """Each out-of-memory event: the step, and the micro-batch rows from then on."""
    probe_answers: list[dict[str, Any]] = []
    """Answers to the probe questions, one entry per epoch."""


class RunFolder:
    """Checkpoints and state of one unfinished run; opened by :func:`open_run`."""

    def __init__(self, path: Path, state: RunState, lock: ProcessLock | None) -> None:
        """Open the folder.

        Args:
            path: The folder.
            state: The run's state.
            lock: Held by the main process, which alone writes; ``None`` in the others.
        """
        self.path = path
        self.state = state
        self._lock = lock

    def checkpoint_path(self, step: int) -> Path:
        """Return the path of the checkpoint of ``step``, which need not exist."""
        return self.path / f"checkpoint-{step}"

    def latest_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint."""
        complete = list_complete_checkpoints(self.path)
        return complete[-1] if complete else None

    def mark_complete(self, step: int) -> None:
        """Write the list of files of the checkpoint of ``step``, which makes it complete.

        Raises:
            StorageError: The disk is full.
        """
        folder = self.checkpoint_path(step)
        sync_tree(folder)
        paths = [path for path in folder.iterdir() if path.name != _FILES_FILE]
        write_durably(folder / _FILES_FILE, json_with_checksum(describe_files(paths), indent=1))

    def prune(self, keep: int, best_step: int | None) -> None:
        """Delete all checkpoints except the newest ``keep`` and that of ``best_step``."""
        complete = list_complete_checkpoints(self.path)
        for folder in complete[: max(0, len(complete) - keep)]:
            if best_step is None or folder != self.checkpoint_path(best_step):
                shutil.rmtree(folder, ignore_errors=True)

    def save_state(self) -> None:
        """Write the state atomically.

        Raises:
            StorageError: The folder cannot be written.
        """
        _write_state(self.path, self.state)

    def discard(self) -> None:
        """Release the lock and delete the folder."""
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Release the lock, so that another process may open the folder."""
        if self._lock is not None:
            self._lock.release()


def unfinished_run_path(job: TrainingJob) -> Path:
    """Return the folder of the unfinished run of the job's profile."""
    return job.work_folder / job.profile.name / _FOLDER_NAME


def open_run(job: TrainingJob) -> RunFolder:
    """Open the job's unfinished run, or start a new one.

    Raises:
        TrainingError: Another process is training this profile, or there is an unfinished run
            with other settings.
        StorageError: The folder cannot be written.
    """
    path = unfinished_run_path(job)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"Cannot create {path} for the checkpoints: "
            f"{explain(error, 'set qlora_train.work_folder to another folder')}"
        ) from error
    # Next to the folder, which may be deleted.
    lock = ProcessLock(
        path.with_suffix(".lock"), f"The folder {path}",
        "Wait for it, or stop it; its checkpoints are kept.",
    )  # fmt: skip
    try:
        lock.acquire(timeout_s=0)
    except InUseError as error:
        raise TrainingError(f"Another process is training {job.profile.name}. {error}") from None
    try:
        return RunFolder(path, _load_or_reset_state(job, path), lock)
    except BaseException:
        lock.release()
        raise


def open_run_on_all_processes(job: TrainingJob) -> RunFolder:
    """Open the job's run folder in every process; only the main process writes there.

    Raises:
        TrainingError: As :func:`open_run`.
        StorageError: As :func:`open_run`.
    """
    run = open_run(job) if distributed.is_main_process() else None
    state = distributed.broadcast_from_main(run.state if run else None)
    if run is not None:
        return run
    assert state is not None  # noqa: S101  # broadcast by the main process
    return RunFolder(unfinished_run_path(job), state, lock=None)


def list_complete_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints whose files all have their recorded checksums, oldest first."""
    return [path for path in _list_checkpoints(folder) if _is_complete(path)]


def _load_or_reset_state(job: TrainingJob, path: Path) -> RunState:
    new = RunState(decisive=job.decisive_settings(), micro_batch_rows=job.values.micro_batch_rows)
    _remove_incomplete_checkpoints(path)
    if job.restart_training or not list_complete_checkpoints(path):
        if job.restart_training and list_complete_checkpoints(path):
            _log.info("Restarting; the unfinished run in %s is discarded", path)
        _clear_folder(path)
        _write_state(path, new)
        return new
    stored = _read_state(path)
    if stored is None:
        raise TrainingError(_mismatch_message(job, path, "its settings cannot be read"))
    changed = describe_differences(stored.decisive, new.decisive)
    if changed:
        raise TrainingError(_mismatch_message(job, path, f"changed since: {'; '.join(changed)}"))
    # The stored value may have been reduced after running out of memory.
    stored.micro_batch_rows = min(stored.micro_batch_rows, new.micro_batch_rows)
    return stored


def _mismatch_message(job: TrainingJob, path: Path, reason: str) -> str:
    step = list_complete_checkpoints(path)[-1].name.rpartition("-")[2]
    return (
        f"There is an unfinished run of {job.profile.name} in {path}, at step {step}, and this "
        f"run differs from it ({reason}). Revert the change to resume it, or discard it and "
        "start over with --params=qlora_train.restart_training=true."
    )


def _write_state(path: Path, state: RunState) -> None:
    text = json_with_checksum(state.model_dump(mode="json"), indent=1)
    write_durably(path / _STATE_FILE, text)


def _read_state(path: Path) -> RunState | None:
    try:
        text = (path / _STATE_FILE).read_text(encoding="utf-8")
        return RunState.model_validate(parse_json_with_checksum(text))
    except (FileNotFoundError, ValueError):
        return None


def _list_checkpoints(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[11:]))


def _is_complete(checkpoint: Path) -> bool:
    try:
        text = (checkpoint / _FILES_FILE).read_text(encoding="utf-8")
        return find_damage(checkpoint, parse_json_with_checksum(text)) is None
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        return False  # any other error says nothing about the checkpoint, which would be deleted


def _remove_incomplete_checkpoints(folder: Path) -> None:
    for path in _list_checkpoints(folder):
        if not _is_complete(path):
            _log.warning("%s is incomplete or damaged; it is skipped", path.name)
            shutil.rmtree(path, ignore_errors=True)


def _clear_folder(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
