"""What the Trainer of transformers is told."""

import torch
from transformers import TrainingArguments

from the_block_llm.pipelines.qlora_train.checkpoint.checkpoints import RunFolder
from the_block_llm.pipelines.qlora_train.data.epoch_calculator import EpochPlan
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.runtime import distributed


def micro_batch_rows(job: TrainingJob, run: RunFolder) -> int:
    """Rows that go through the model together in each process: a divisor of its share.

    Raises:
        ParameterError: The effective batch cannot be shared out over the processes.
    """
    share = job.rows_of_each(distributed.n_processes())
    return max(n for n in range(1, run.state.micro_batch_rows + 1) if share % n == 0)


def training_arguments(
    job: TrainingJob,
    plan: EpochPlan,
    run: RunFolder,
    device: torch.device,
    resumed: bool,
    layerwise: bool,
) -> TrainingArguments:
    """The run's values in transformers' names; ``layerwise``: which engine computes."""
    values = job.values
    on_gpu = device.type == "cuda"
    # The layerwise engine knows its types and recomputes by itself.
    helped = on_gpu and not layerwise
    rows = micro_batch_rows(job, run)
    arguments = TrainingArguments(
        output_dir=str(run.path),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=job.rows_of_each(distributed.n_processes()) // rows,
        max_steps=plan.steps,
        learning_rate=values.learning_rate,
        # Rounded down: of one step the first, whose rate would be 0, is all there is.
        warmup_steps=int(plan.steps * values.warmup_ratio),
        weight_decay=values.weight_decay,
        max_grad_norm=values.max_grad_norm,
        # Not the paged one: its managed memory counts as no one's, and moves unasked.
        optim="adamw_8bit" if on_gpu else "adamw_torch",
        bf16=helped,
        use_cpu=not on_gpu,
        ddp_backend=distributed.backend(),
        ddp_find_unused_parameters=False,
        # Every step: what a resumed run logs must not depend on where it was cut off.
        logging_steps=1,
        # A loss that is not a number must be seen, not smoothed away.
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
        # Where one process sees several GPUs, the Trainer would copy the model to each of them
        # (DataParallel) and take as many times the rows a step. Ours has one GPU a process.
        arguments._n_gpu = 1
    return arguments
