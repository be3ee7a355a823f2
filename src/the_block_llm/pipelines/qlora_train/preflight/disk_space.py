"""Room for checkpoints, reckoned before a run needs it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from the_block_llm.errors import StorageError

_WEIGHT_BYTES: Final = 4
_ADAM_BYTES: Final = 8  # two moments in float32; two bytes with the 8-bit optimizer of a GPU
_ADAM_8BIT_BYTES: Final = 2
# Trainer state, tokenizer, random states: measured 0.1 MB with a few hundred steps, and growing.
_REST_BYTES: Final = 20 * 2**20


@dataclass(frozen=True)
class DiskNeed:
    """Bytes that a run writes beside its data, and what there is."""

    checkpoint_bytes: int
    checkpoints: int
    """Most that lie there at a time: those kept, the best, and the one being written."""
    adapter_bytes: int
    free_bytes: int

    @property
    def needed_bytes(self) -> int:
        return self.checkpoint_bytes * self.checkpoints + self.adapter_bytes


def disk_need(
    folder: Path, trained_parameters: int, checkpoints_kept: int, on_gpu: bool
) -> DiskNeed:
    """Reckon what checkpoints and adapter take under ``folder``, which need not exist yet."""
    optimizer = _ADAM_8BIT_BYTES if on_gpu else _ADAM_BYTES
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return DiskNeed(
        checkpoint_bytes=trained_parameters * (_WEIGHT_BYTES + optimizer) + _REST_BYTES,
        checkpoints=checkpoints_kept + 2,
        adapter_bytes=trained_parameters * _WEIGHT_BYTES + _REST_BYTES,
        free_bytes=shutil.disk_usage(existing).free,
    )


def check_disk(need: DiskNeed, folder: Path) -> None:
    """Refuse a run whose checkpoints would not fit.

    Raises:
        StorageError: With the largest number of checkpoints that would.
    """
    if need.needed_bytes <= need.free_bytes:
        return
    fitting = (need.free_bytes - need.adapter_bytes) // need.checkpoint_bytes - 2
    remedy = (
        f"keep {fitting} (training.checkpoints_kept of the profile)"
        if fitting >= 1
        else "set qlora_train.work_folder to a larger disk"
    )
    raise StorageError(
        f"{need.checkpoints} checkpoints of {need.checkpoint_bytes / 2**20:,.0f} MB and the "
        f"adapter need {need.needed_bytes / 2**20:,.0f} MB under {folder}, where "
        f"{need.free_bytes / 2**20:,.0f} MB are free. Free some space, or {remedy}."
    )
