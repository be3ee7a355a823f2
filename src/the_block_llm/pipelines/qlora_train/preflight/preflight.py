"""The preflight report: epochs, memory, disk space and duration of a run before it starts."""

import logging
from dataclasses import asdict
from typing import Any

import torch
from rich import get_console
from rich.table import Table
from rich.text import Text

from the_block_llm.models.factory import (
    device_memory_budget,
    enable_expandable_segments,
    host_memory_budget,
)
from the_block_llm.models.layerwise.planner.plan_search import MemoryPlan
from the_block_llm.models.plain.memory_plan import PlainMemoryPlan
from the_block_llm.models.resource_limits import MemoryLimits
from the_block_llm.pipelines.qlora_train.data.run_data import load_run_data
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.model_setup import plan_run_memory
from the_block_llm.pipelines.qlora_train.preflight.disk_space import (
    check_disk_space,
    estimate_disk_requirement,
)
from the_block_llm.pipelines.qlora_train.preflight.parameter_count import count_parameters
from the_block_llm.pipelines.qlora_train.preflight.throughput import (
    estimate_seconds,
    load_and_measure_throughput,
)
from the_block_llm.pipelines.qlora_train.runtime import distributed
from the_block_llm.pipelines.qlora_train.runtime.memory_stats import device_name, format_duration

_log = logging.getLogger(__name__)


def run_preflight(job: TrainingJob, with_throughput: bool) -> dict[str, Any]:
    """Check that the run fits, and print what it needs as a table.

    Args:
        job: The run.
        with_throughput: Load the model and time real passes to estimate the duration.

    Returns:
        The report, as in ``training_preflight.json``.

    Raises:
        MemoryPlanError: The run does not fit into memory.
        StorageError: The checkpoints do not fit on the disk.
        AdapterTargetError: A LoRA target matches no layer.
        ProfileError: The ids of the added tokens do not follow the vocabulary without a gap.
        TooLittleDataError: There is no row with a target.
    """
    enable_expandable_segments()
    data = load_run_data(job)
    device = distributed.local_device()
    job, memory = plan_run_memory(job, data)
    parameters = count_parameters(job.profile, job.added_tokens)
    disk = estimate_disk_requirement(
        job.work_folder, parameters.trained_parameters, job.values.checkpoints_kept,
        on_gpu=device.type == "cuda",
    )  # fmt: skip
    throughput = load_and_measure_throughput(job, memory, data) if with_throughput else None
    report = {
        "profile": job.profile.name,
        "device": device_name(device),
        "epoch_plan": asdict(data.plan),
        "longest_row_tokens": data.train.longest_row_tokens,
        "base_parameters": parameters.base_parameters,
        "trained_parameters": parameters.trained_parameters,
        "disk_needed_bytes": disk.required_bytes,
        "disk_free_bytes": disk.free_bytes,
        "memory_plan": None if memory is None else memory.describe(),
        "memory_items_bytes": None if memory is None else memory.device_items,
        "memory_free_bytes": (None if memory is None else _free_bytes(memory, device, job.limits)),
        "host_memory_bytes": None if memory is None else memory.host_bytes,
        "speed": None if throughput is None else asdict(throughput),
        "expected_seconds": None if throughput is None else estimate_seconds(data, job, throughput),
    }
    get_console().print(_table(report))
    check_disk_space(disk, job.work_folder)
    return report


def _free_bytes(
    memory: MemoryPlan | PlainMemoryPlan, device: torch.device, limits: MemoryLimits
) -> int:
    if device.type == "cuda":
        return device_memory_budget(device, limits.device_gib)
    # A plain plan's items include the memory that the process already uses.
    used_bytes = memory.process_bytes if isinstance(memory, PlainMemoryPlan) else 0
    return host_memory_budget(limits.host_gib) + used_bytes


def _table(report: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in _table_rows(report):
        # Text, since a plain string would be parsed as markup.
        table.add_row(label, Text(text))
    return table


def _table_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    plan = report["epoch_plan"]
    needed = "none" if plan["epochs_wanted"] is None else f"{plan['epochs_wanted']:.2f}"
    rows = [
        ("model", f"{report['profile']} on {report['device']}"),
        (
            "rows",
            (
                f"{plan['rows']:,} of up to {report['longest_row_tokens']:,} tokens, "
                f"{plan['trained_tokens_per_epoch']:,} trained tokens per epoch"
            ),
        ),
        ("epochs", f"{needed} needed, {plan['epochs']} chosen ({plan['reason']})"),
        ("steps", f"{plan['steps']:,}"),
        (
            "adapter",
            (
                f"{report['trained_parameters']:,} trained parameters, "
                f"{report['base_parameters']:,} frozen"
            ),
        ),
        (
            "disk",
            (
                f"{report['disk_needed_bytes'] / 2**20:,.0f} MB for checkpoints and adapter, "
                f"{report['disk_free_bytes'] / 2**20:,.0f} MB free"
            ),
        ),
    ]
    rows.extend(_memory_rows(report))
    return [*rows, ("time", _format_time(report))]


def _format_time(report: dict[str, Any]) -> str:
    speed = report["speed"]
    if speed is None:
        # A long run is measured after loading the model; for a short one that does not pay off.
        return "estimated after the start; with preflight_only=true, here"
    return (
        f"about {format_duration(report['expected_seconds'])}, at "
        f"{speed['train_tokens_per_second']:,.0f} tokens/s with micro-batches of "
        f"{speed['micro_batch_rows']} of the longest rows"
    )


def _memory_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    if report["memory_plan"] is None:
        return []
    items = report["memory_items_bytes"]
    item_rows = [
        (f"  {name}", f"{n_bytes / 2**20:,.0f} MiB") for name, n_bytes in items.items() if n_bytes
    ]
    return [
        ("plan", report["memory_plan"]),
        (
            "memory" if report["device"].startswith("CPU") else "GPU memory",
            f"{sum(items.values()) / 2**30:.2f} of {report['memory_free_bytes'] / 2**30:.2f} GiB",
        ),
        *item_rows,
        *(
            [("host memory", f"{report['host_memory_bytes'] / 2**30:.1f} GiB")]
            if report["host_memory_bytes"]
            else []
        ),
    ]
