"""The memory plan of a run, and loading the model by it."""

import logging

from transformers import PreTrainedTokenizerFast

from the_block_llm.models.base.quantized_loading import disable_inference_repacking
from the_block_llm.models.factory import (
    TrainableModel,
    load_trainable,
    plan_memory,
    set_memory_fraction,
)
from the_block_llm.models.layerwise.planner.plan_search import MemoryPlan
from the_block_llm.models.plain.fsdp import shard_bytes
from the_block_llm.models.plain.memory_plan import PlainMemoryPlan
from the_block_llm.pipelines.qlora_train.data.run_data import RunData
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.runtime import distributed

_log = logging.getLogger(__name__)


def plan_run_memory(
    job: TrainingJob, data: RunData
) -> tuple[TrainingJob, MemoryPlan | PlainMemoryPlan | None]:
    """Plan the run's memory.

    Returns:
        The job with the plan's micro-batch, and the plan.

    Raises:
        MemoryPlanError: Nothing fits; the message names the nearest setting that would.
    """
    device = distributed.local_device()
    set_memory_fraction(device, job.limits.device_gib)
    # All processes must use the same micro-batch.
    plan = distributed.broadcast_from_main(
        plan_memory(
            job.profile,
            data.train.longest_row_tokens,
            job.values.effective_batch_rows,
            device,
            job.limits,
            job.n_processes,
            len(job.added_tokens),
            job.values.micro_batch_rows,
        )
    )
    if plan is None:
        return job, None
    values = job.values.model_copy(update={"micro_batch_rows": plan.micro_batch_rows})
    return job.model_copy(update={"values": values}), plan


def load_model(
    job: TrainingJob, plan: MemoryPlan | PlainMemoryPlan | None, tokenizer: PreTrainedTokenizerFast
) -> TrainableModel:
    """Load the job's base model in 4 bits and attach a newly initialized adapter.

    Raises:
        AdapterTargetError: A LoRA target matches no layer.
        ModelUnavailableError: The base weights cannot be loaded.
    """
    device = distributed.local_device()
    sharded = job.limits.layers == "sharded" and distributed.world_size() > 1
    trainable = load_trainable(
        job.profile, job.values.seed, device, plan, tokenizer, job.added_tokens, sharded=sharded
    )
    if sharded:
        local_bytes, total_bytes = shard_bytes(trainable.model)
        _log.info(
            "Each process stores %s of the %s bytes of frozen layers. The layerwise engine, probe "
            "questions and the duration estimate are disabled",
            f"{local_bytes:,}", f"{total_bytes:,}",
        )  # fmt: skip
    if trainable.is_layerwise and distributed.world_size() > 1:
        trainable.model.layerwise.returns_gradients = True
    disable_inference_repacking(trainable.model)
    return trainable
