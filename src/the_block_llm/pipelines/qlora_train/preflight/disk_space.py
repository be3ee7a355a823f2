"""Disk space that the checkpoints of a run need."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from the_block_llm.errors import StorageError

_WEIGHT_BYTES: Final = 4
_ADAM_BYTES: Final = 8  # two moments in float32; two bytes with the 8-bit optimizer of a GPU
_ADAM_8BIT_BYTES: Final = 2
# Trainer state, tokenizer, random states: 0.1 MB measured after a few hundred steps, growing.
_OTHER_BYTES: Final = 20 * 2**20


@dataclass(frozen=True)
class DiskRequirement:
    """Disk space that a run needs, and the space that is free."""

    checkpoint_bytes: int
    checkpoints: int
    """Maximum at any time: those kept, the best, and the one being written."""
    adapter_bytes: int
    free_bytes: int

    @property
    def required_bytes(self) -> int:
        return self.checkpoint_bytes * self.checkpoints + self.adapter_bytes


def estimate_disk_requirement(
    folder: Path, trained_parameters: int, checkpoints_kept: int, on_gpu: bool
) -> DiskRequirement:
    """Estimate the size of checkpoints and adapter under ``folder``, which need not exist."""
    optimizer_bytes = _ADAM_8BIT_BYTES if on_gpu else _ADAM_BYTES
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return DiskRequirement(
        checkpoint_bytes=trained_parameters * (_WEIGHT_BYTES + optimizer_bytes) + _OTHER_BYTES,
        checkpoints=checkpoints_kept + 2,
        adapter_bytes=trained_parameters * _WEIGHT_BYTES + _OTHER_BYTES,
        free_bytes=shutil.disk_usage(existing).free,
    )


def check_disk_space(disk: DiskRequirement, folder: Path) -> None:
    """Raise an error if the checkpoints do not fit under ``folder``.

    Raises:
        StorageError: They do not fit; the message names the number of checkpoints that does.
    """
    if disk.required_bytes <= disk.free_bytes:
        return
    max_kept = (disk.free_bytes - disk.adapter_bytes) // disk.checkpoint_bytes - 2
    remedy = (
        f"keep {max_kept} (training.checkpoints_kept of the profile)"
        if max_kept >= 1
        else "set qlora_train.work_folder to a larger disk"
    )
    raise StorageError(
        f"{disk.checkpoints} checkpoints of {disk.checkpoint_bytes / 2**20:,.0f} MB and the "
        f"adapter need {disk.required_bytes / 2**20:,.0f} MB under {folder}, where "
        f"{disk.free_bytes / 2**20:,.0f} MB are free. Free some space, or {remedy}."
    )
