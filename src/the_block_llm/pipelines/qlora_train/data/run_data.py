"""The data of a run: rows, epochs and sample order."""

from dataclasses import dataclass, replace

import numpy as np

from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.errors import TooLittleDataError
from the_block_llm.pipelines.qlora_train.data.dataset import RowDataset
from the_block_llm.pipelines.qlora_train.data.epoch_plan import EpochPlan, plan_epochs
from the_block_llm.pipelines.qlora_train.data.sample_order import SampleOrder, make_sample_order
from the_block_llm.pipelines.qlora_train.job import TrainingJob


@dataclass(frozen=True)
class RunData:
    """Rows, epochs and sample order of a run."""

    train: RowDataset
    validation: RowDataset
    plan: EpochPlan
    order: SampleOrder


def load_run_data(job: TrainingJob) -> RunData:
    """Read the job's rows and plan epochs, steps and sample order.

    Raises:
        TooLittleDataError: There is no row with a target.
        ParameterError: The epoch bounds contradict each other.
    """
    values = job.values
    train_rows = RowDataset(ParquetTable(job.train_folder), values.max_rows)
    validation_rows = RowDataset(ParquetTable(job.validation_folder), values.max_validation_rows)
    for name, rows in (("training", train_rows), ("validation", validation_rows)):
        if len(rows) == 0:
            raise TooLittleDataError(
                f"There is no {name} row with a target. The repository is too small for its "
                "cutoff: choose another with sequence_build.cutoff, or a repository with more "
                "history."
            )
    batch_rows = values.effective_batch_rows
    one_epoch = make_sample_order(train_rows.stages, 1, batch_rows, values.seed)
    plan = plan_epochs(
        rows=len(train_rows),
        trained_tokens_per_epoch=train_rows.trained_tokens,
        steps_per_epoch=one_epoch.steps,
        target_tokens=values.target_tokens,
        min_epochs=values.min_epochs,
        max_epochs=values.max_epochs,
        force_epochs=job.force_epochs,
        max_steps=job.max_steps,
    )
    order = make_sample_order(train_rows.stages, plan.epochs, batch_rows, values.seed)
    if job.stage_epochs and job.force_epochs is None and bool(np.any(train_rows.stages)):
        order = make_sample_order(train_rows.stages, job.stage_epochs, batch_rows, values.seed)
        plan = replace(
            plan,
            epochs=max(job.stage_epochs.values()),
            reason="epochs of the curriculum stages",
            steps=min(order.steps, job.max_steps or order.steps),
        )
    return RunData(train=train_rows, validation=validation_rows, plan=plan, order=order)
