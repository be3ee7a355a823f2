"""Optional TensorBoard logging."""

import importlib.util
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from the_block_llm.errors import ParameterError
from the_block_llm.pipelines.qlora_train.runtime import distributed


def check_tensorboard() -> None:
    """Check that TensorBoard is installed.

    Raises:
        ParameterError: TensorBoard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ParameterError(
            "qlora_train.tensorboard is true, but TensorBoard is not installed. Run "
            "`python -m pip install tensorboard`, or set the parameter to false; the plots in "
            "data/08_reporting show the same curves."
        )


def tensorboard_callback(folder: Path | None) -> list[TrainerCallback]:
    """Return the callback that writes to ``folder``; none without a folder or on other ranks.

    Raises:
        ParameterError: TensorBoard is not installed.
    """
    if folder is None or not distributed.is_main_process():
        return []
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # optional package

    return [TensorBoardCallback(SummaryWriter(str(folder)))]
