"""The rows of a run, and the way through them."""

from dataclasses import dataclass, replace

import numpy as np

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import TooLittleDataError
from the_block_llm.pipelines.qlora_train.data.dataset import RowTable
from the_block_llm.pipelines.qlora_train.data.epoch_calculator import EpochPlan, plan_epochs
from the_block_llm.pipelines.qlora_train.data.sampler import RowOrder, order_rows
from the_block_llm.pipelines.qlora_train.job import TrainingJob


@dataclass(frozen=True)
class RunData:
    """The rows of a run and the way through them."""

    train: RowTable
    validation: RowTable
    plan: EpochPlan
    order: RowOrder


def read_rows(job: TrainingJob) -> RunData:
    """Open the job's rows and settle epochs, steps and order.

    Raises:
        TooLittleDataError: There is no row with a target.
        ParameterError: The effective batch cannot be shared out.
    """
    values = job.values
    train_rows = RowTable(ParquetTable(job.train_folder), values.max_rows)
    validation_rows = RowTable(ParquetTable(job.validation_folder), values.max_validation_rows)
    for name, rows in (("training", train_rows), ("validation", validation_rows)):
        if len(rows) == 0:
            raise TooLittleDataError(
                f"There is no {name} row with anything to learn in it. The repository is too "
                "small for its cut-off: choose another with sequence_build.cutoff, or a "
                "repository with more history."
            )
    batch = values.effective_batch_rows
    one_epoch = order_rows(train_rows.stages, 1, batch, values.seed)
    plan = plan_epochs(
        rows=len(train_rows),
        trained_tokens_per_epoch=train_rows.trained_tokens,
        target_tokens=values.target_tokens,
        min_epochs=values.min_epochs,
        max_epochs=values.max_epochs,
        effective_batch_rows=batch,
        force_epochs=job.force_epochs,
        max_steps=job.max_steps,
        steps_per_epoch=one_epoch.steps,
    )
    order = order_rows(train_rows.stages, plan.epochs, batch, values.seed)
    if job.stage_epochs and job.force_epochs is None and bool(np.any(train_rows.stages)):
        order = order_rows(train_rows.stages, job.stage_epochs, batch, values.seed)
        plan = replace(
            plan,
            epochs=max(job.stage_epochs.values()),
            reason="the stages of the curriculum",
            steps=min(order.steps, job.max_steps or order.steps),
        )
    return RunData(train=train_rows, validation=validation_rows, plan=plan, order=order)
