"""What a run will take, said before it starts."""

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
from the_block_llm.pipelines.qlora_train.data.run_data import read_rows
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.model_setup import plan_for
from the_block_llm.pipelines.qlora_train.preflight.disk_space import check_disk, disk_need
from the_block_llm.pipelines.qlora_train.preflight.parameter_count import adapter_shape
from the_block_llm.pipelines.qlora_train.preflight.throughput import expected_seconds, measure
from the_block_llm.pipelines.qlora_train.runtime import distributed
from the_block_llm.pipelines.qlora_train.runtime.memory_stats import device_name, spoken_duration

_log = logging.getLogger(__name__)


def preflight(job: TrainingJob, with_speed: bool) -> dict[str, Any]:
    """Check that the run fits, print the table, and give it as a report.

    Args:
        job: The run to come.
        with_speed: Load the model and time real passes, for the expected duration.

    Raises:
        StorageError: The checkpoints would not fit on the disk.
        AdapterTargetError: A LoRA target matches no layer.
        ProfileError: The added tokens leave a gap behind the model's own.
        TooLittleDataError: There is no row with a target.
    """
    enable_expandable_segments()
    data = read_rows(job)
    device = distributed.local_device()
    job, memory = plan_for(job, data)
    shape = adapter_shape(job.profile, job.added_tokens)
    disk = disk_need(
        job.work_folder, shape.trained_parameters, job.values.checkpoints_kept,
        on_gpu=device.type == "cuda",
    )  # fmt: skip
    speed = measure(job, memory, data) if with_speed else None
    report = {
        "profile": job.profile.name,
        "device": device_name(device),
        "epoch_plan": asdict(data.plan),
        "longest_row_tokens": data.train.longest_row_tokens,
        "base_parameters": shape.base_parameters,
        "trained_parameters": shape.trained_parameters,
        "disk_needed_bytes": disk.needed_bytes,
        "disk_free_bytes": disk.free_bytes,
        "memory_plan": None if memory is None else memory.describe(),
        "memory_items_bytes": None if memory is None else memory.device_items,
        "memory_free_bytes": (None if memory is None else _free_bytes(memory, device, job.limits)),
        "host_memory_bytes": None if memory is None else memory.host_bytes,
        "speed": None if speed is None else asdict(speed),
        "expected_seconds": None if speed is None else expected_seconds(data, job, speed),
    }
    get_console().print(_table(report))
    check_disk(disk, job.work_folder)
    return report


def _free_bytes(
    memory: MemoryPlan | PlainMemoryPlan, device: torch.device, limits: MemoryLimits
) -> int:
    if device.type == "cuda":
        return device_memory_budget(device, limits.device_gib)
    # What the process holds is in a plain plan's items, and is not free any more.
    held = memory.process_bytes if isinstance(memory, PlainMemoryPlan) else 0
    return host_memory_budget(limits.host_gib) + held


def _table(report: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in _lines(report):
        # As Text: names must not be read as markup.
        table.add_row(label, Text(text))
    return table


def _lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    plan = report["epoch_plan"]
    wanted = "none" if plan["epochs_wanted"] is None else f"{plan['epochs_wanted']:.2f}"
    lines = [
        ("model", f"{report['profile']} on {report['device']}"),
        (
            "rows",
            (
                f"{plan['rows']:,} of up to {report['longest_row_tokens']:,} tokens, "
                f"{plan['trained_tokens_per_epoch']:,} tokens to learn an epoch"
            ),
        ),
        ("epochs", f"{wanted} wanted, {plan['epochs']} chosen ({plan['reason']})"),
        ("steps", f"{plan['steps']:,}"),
        (
            "adapter",
            (
                f"{report['trained_parameters']:,} trained parameters beside "
                f"{report['base_parameters']:,}"
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
    lines.extend(_memory_lines(report))
    return [*lines, ("time", _time(report))]


def _time(report: dict[str, Any]) -> str:
    speed = report["speed"]
    if speed is None:
        # A long run is timed once it has loaded the model, a short one is over before that pays.
        return "told once it begins; preflight_only tells now"
    return (
        f"about {spoken_duration(report['expected_seconds'])}, at "
        f"{speed['train_tokens_per_second']:,.0f} tokens/s with "
        f"{speed['micro_batch_rows']} of the longest rows at a time"
    )


def _memory_lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    if report["memory_plan"] is None:
        return []
    items = report["memory_items_bytes"]
    lines = [
        (f"  {name}", f"{n_bytes / 2**20:,.0f} MiB") for name, n_bytes in items.items() if n_bytes
    ]
    return [
        ("plan", report["memory_plan"]),
        (
            "memory" if report["device"].startswith("CPU") else "GPU memory",
            f"{sum(items.values()) / 2**30:.2f} of {report['memory_free_bytes'] / 2**30:.2f} GiB",
        ),
        *lines,
        *(
            [("host memory", f"{report['host_memory_bytes'] / 2**30:.1f} GiB")]
            if report["host_memory_bytes"]
            else []
        ),
    ]
