"""Curves in TensorBoard, for those who have it."""

import importlib.util
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from the_block_llm.errors import ParameterError
from the_block_llm.pipelines.qlora_train.runtime import distributed


def check_tensorboard() -> None:
    """Make sure that curves can be written.

    Raises:
        ParameterError: TensorBoard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ParameterError(
            "qlora_train.tensorboard is true, but TensorBoard is not installed. Run "
            "`python -m pip install tensorboard`, or leave the parameter false; the plots in "
            "data/08_reporting show the same curves."
        )


def tensorboard_callback(folder: Path | None) -> list[TrainerCallback]:
    """What writes the curves into ``folder``; nothing where there is none."""
    if folder is None or not distributed.is_first():
        return []
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # needs the package

    return [TensorBoardCallback(SummaryWriter(str(folder)))]
