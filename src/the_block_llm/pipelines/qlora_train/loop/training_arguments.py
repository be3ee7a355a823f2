"""``TrainingArguments`` of a run: optimizer, learning rate schedule, batches, checkpoints.

The memory plans count the states of this optimizer (``models/layerwise/planner/memory_model.py``
and ``models/plain/memory_plan.py``).
"""

import torch
from transformers import TrainingArguments

from the_block_llm.pipelines.qlora_train.checkpoint.checkpoints import RunFolder
from the_block_llm.pipelines.qlora_train.data.epoch_plan import EpochPlan
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.runtime import distributed


def per_device_batch_rows(job: TrainingJob, run: RunFolder) -> int:
    """Return the micro-batch of each process: the largest that divides its rows of a step.

    Raises:
        ParameterError: The number of processes does not divide the effective batch.
    """
    step_rows = job.rows_per_process(distributed.world_size())
    return max(n for n in range(1, run.state.micro_batch_rows + 1) if step_rows % n == 0)


def training_arguments(
    job: TrainingJob,
    plan: EpochPlan,
    run: RunFolder,
    device: torch.device,
    resumed: bool,
    layerwise: bool,
) -> TrainingArguments:
    """Translate the run's settings to ``TrainingArguments``.

    Args:
        job: The run.
        plan: Its epochs and steps.
        run: The run folder; its state holds the micro-batch.
        device: The device to train on.
        resumed: Whether the run resumes from a checkpoint, so that step 0 is already validated.
        layerwise: Whether the layerwise engine computes, which handles its dtypes itself.
    """
    values = job.values
    on_gpu = device.type == "cuda"
    rows = per_device_batch_rows(job, run)
    arguments = TrainingArguments(
        output_dir=str(run.path),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=job.rows_per_process(distributed.world_size()) // rows,
        max_steps=plan.steps,
        learning_rate=values.learning_rate,
        # Rounded down: with one warm-up step, a run of one step would have learning rate 0.
        warmup_steps=int(plan.steps * values.warmup_ratio),
        weight_decay=values.weight_decay,
        max_grad_norm=values.max_grad_norm,
        # Not the paged optimizer: its managed memory is not counted, and migrates without notice.
        optim="adamw_8bit" if on_gpu else "adamw_torch",
        bf16=on_gpu and not layerwise,
        use_cpu=not on_gpu,
        ddp_backend=distributed.backend(),
        ddp_find_unused_parameters=False,
        # Every step, so that the log of a resumed run does not depend on where it was interrupted.
        logging_steps=1,
        # A NaN loss must be logged, not replaced.
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=values.eval_steps,
        eval_on_start=not resumed,
        save_strategy="steps",
        save_steps=values.save_steps,
        seed=values.seed,
        data_seed=values.seed,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=on_gpu,
        disable_tqdm=True,
        report_to="none",
    )
    if on_gpu:
        # One GPU per process. If a process sees several, the Trainer would use DataParallel and
        # multiply the rows of a step.
        arguments._n_gpu = 1
    return arguments
