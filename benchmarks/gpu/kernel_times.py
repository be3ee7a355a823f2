"""Profile a training step on a GPU by kernel.

    python benchmarks/gpu/kernel_times.py MODEL [--rows 8] [--tokens 1024] [--cap 7.0]

MODEL is a folder written by random_llama.py, or any Llama with its tokenizer. Profiles forward and
backward of one micro-batch in the layerwise engine, with the plan that the preflight would choose.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.profiler import ProfilerActivity, profile

from the_block_llm.models.base.sources import load_tokenizer
from the_block_llm.models.factory import (
    enable_expandable_segments,
    load_trainable,
    plan_memory,
    set_memory_fraction,
)
from the_block_llm.models.layerwise import model as layerwise_model
from the_block_llm.models.profiles import ModelProfiles, resolve_profile
from the_block_llm.models.resource_limits import MemoryLimits

PARAMETERS = Path(__file__).parents[2] / "conf" / "base" / "parameters_models.yml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--cap", type=float, default=7.0)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--layers", choices=["auto", "resident", "streamed"], default="auto")
    arguments = parser.parse_args()
    enable_expandable_segments()
    device = torch.device("cuda", 0)
    text = PARAMETERS.read_text(encoding="utf-8").replace("${project_path:", "").replace("}", "")
    profiles = ModelProfiles.model_validate(yaml.safe_load(text)["models"])
    model_profile = resolve_profile(profiles, str(arguments.model))
    model_profile = model_profile.model_copy(
        update={
            "cache_folder": str(arguments.model.parent / "cache"),
            "lora": model_profile.lora.model_copy(update={"dropout": arguments.dropout}),
        }
    )
    set_memory_fraction(device, arguments.cap)
    limits = MemoryLimits(
        engine="layerwise",
        layers=arguments.layers,
        device_gib=arguments.cap,
        micro_batch_rows=arguments.rows,
    )
    plan = plan_memory(model_profile, arguments.tokens, arguments.rows, device, limits)
    assert plan is not None
    print(plan.describe())
    tokenizer = load_tokenizer(model_profile)
    torch.cuda.reset_peak_memory_stats(device)
    weights_peaks = _record_weights_peak(device)
    trainable = load_trainable(model_profile, 0, device, plan, tokenizer)
    peak_bytes = torch.cuda.max_memory_allocated(device)
    allocated_bytes = torch.cuda.memory_allocated(device)
    adapter_bytes = sum(p.numel() * p.element_size() for p in trainable.model.parameters())
    print(
        f"loading: peak {weights_peaks[0] / 2**30:.2f} GiB for the weights, "
        f"{peak_bytes / 2**30:.2f} GiB with the adapter; then {allocated_bytes / 2**30:.2f} GiB, "
        f"of which {adapter_bytes / 2**30:.2f} for the adapter"
    )
    rows = [
        {
            "input_ids": torch.randint(len(tokenizer), (arguments.tokens,)).tolist(),
            "labels_mask": [True] * arguments.tokens,
            "segment_lengths": [arguments.tokens],
        }
        for _ in range(arguments.rows)
    ]
    inputs = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in trainable.collate(rows).items()
    }

    def step() -> None:
        trainable.model(**inputs).loss.backward()
        trainable.model.zero_grad(set_to_none=False)

    trainable.model.train()
    for _ in range(2):
        step()
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    milliseconds = start.elapsed_time(end)
    tokens = arguments.rows * arguments.tokens
    print(f"{milliseconds:.1f} ms, {tokens / milliseconds * 1000:,.0f} tokens/s")
    with profile(
        activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU], record_shapes=True
    ) as profiler:
        step()
        torch.cuda.synchronize()
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            totals[event.name][0] += event.device_time / 1000
            totals[event.name][1] += 1
    for name, (kernel_ms, count) in sorted(totals.items(), key=lambda item: -item[1][0])[:32]:
        print(f"{kernel_ms:9.2f} ms {count:6.0f} x  {name[:110]}")
    print("By operation and shape:")
    averages = profiler.key_averages(group_by_input_shape=True)
    for entry in sorted(averages, key=lambda e: -e.self_device_time_total)[:34]:
        if entry.device_type == torch.autograd.DeviceType.CPU:
            print(
                f"{entry.self_device_time_total / 1000:9.2f} ms {entry.count:6d} x  {entry.key} "
                f"{[s for s in entry.input_shapes if s][:3]}"
            )


def _record_weights_peak(device: torch.device) -> list[int]:
    """Return a list to which loading appends the peak in bytes once the frozen weights are loaded."""
    peaks: list[int] = []
    decoder_class = layerwise_model.LayerwiseDecoder

    def make_decoder(*args: Any, **kwargs: Any) -> Any:
        peaks.append(torch.cuda.max_memory_allocated(device))
        return decoder_class(*args, **kwargs)

    layerwise_model.LayerwiseDecoder = make_decoder
    return peaks


if __name__ == "__main__":
    main()
