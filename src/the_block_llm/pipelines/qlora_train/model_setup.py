"""How a run computes: its memory plan, and the model loaded by it."""

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


def plan_for(
    job: TrainingJob, data: RunData
) -> tuple[TrainingJob, MemoryPlan | PlainMemoryPlan | None]:
    """How the run will use memory, and the job with the micro-batch of that plan.

    Raises:
        MemoryPlanError: Nothing fits; the message says what would.
    """
    device = distributed.local_device()
    set_memory_fraction(device, job.limits.device_gib)
    # Processes must not differ in how many rows they take at a time.
    plan = distributed.from_first(
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
    """The job's base in 4 bits, with a fresh adapter.

    Raises:
        AdapterTargetError: A LoRA target matches no layer.
        ModelUnavailableError: The base weights cannot be had.
    """
    device = distributed.local_device()
    sharded = job.limits.layers == "sharded" and distributed.n_processes() > 1
    trainable = load_trainable(
        job.profile, job.values.seed, device, plan, tokenizer, job.added_tokens, sharded=sharded
    )
    if sharded:
        kept, whole = shard_bytes(trainable.model)
        _log.info(
            "Each process keeps %s of the %s bytes of frozen layers. The layerwise engine, probe "
            "questions and the estimate of the run's duration are off", f"{kept:,}", f"{whole:,}",
        )  # fmt: skip
    if trainable.is_layerwise and distributed.n_processes() > 1:
        trainable.model.layerwise.returns_gradients = True
    disable_inference_repacking(trainable.model)
    return trainable
