"""Where the time of a training step goes on a GPU, kernel by kernel.

    python benchmarks/gpu/kernel_times.py MODEL [--rows 8] [--tokens 1024] [--cap 7.0]

MODEL is a folder made by random_llama.py, or of any Llama with its tokenizer. Forward and backward of one micro-batch through the
layerwise engine, on the plan that the preflight would choose.
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

SETTINGS = Path(__file__).parents[2] / "conf" / "base" / "parameters_models.yml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--cap", type=float, default=7.0)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--layers", choices=["auto", "resident", "streamed"], default="auto")
    asked = parser.parse_args()
    enable_expandable_segments()
    device = torch.device("cuda", 0)
    text = SETTINGS.read_text(encoding="utf-8").replace("${project_path:", "").replace("}", "")
    profiles = ModelProfiles.model_validate(yaml.safe_load(text)["models"])
    model_profile = resolve_profile(profiles, str(asked.model))
    model_profile = model_profile.model_copy(
        update={
            "cache_folder": str(asked.model.parent / "cache"),
            "lora": model_profile.lora.model_copy(update={"dropout": asked.dropout}),
        }
    )
    set_memory_fraction(device, asked.cap)
    limits = MemoryLimits(
        engine="layerwise",
        layers=asked.layers,
        device_gib=asked.cap,
        micro_batch_rows=asked.rows,
    )
    plan = plan_memory(model_profile, asked.tokens, asked.rows, device, limits)
    assert plan is not None
    print(plan.describe())
    tokenizer = load_tokenizer(model_profile)
    torch.cuda.reset_peak_memory_stats(device)
    weights_peak = _note_peak_of_weights(device)
    trainable = load_trainable(model_profile, 0, device, plan, tokenizer)
    peak, held = torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)
    adapter = sum(p.numel() * p.element_size() for p in trainable.model.parameters())
    print(
        f"loading: peak {weights_peak[0] / 2**30:.2f} GiB for the weights, {peak / 2**30:.2f} GiB "
        f"with the adapter; then {held / 2**30:.2f} GiB, {adapter / 2**30:.2f} of it the adapter"
    )
    rows = [
        {
            "input_ids": torch.randint(len(tokenizer), (asked.tokens,)).tolist(),
            "labels_mask": [True] * asked.tokens,
            "segment_lengths": [asked.tokens],
        }
        for _ in range(asked.rows)
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
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    step()
    ended.record()
    torch.cuda.synchronize()
    milliseconds = began.elapsed_time(ended)
    tokens = asked.rows * asked.tokens
    print(f"{milliseconds:.1f} ms, {tokens / milliseconds * 1000:,.0f} tokens/s")
    with profile(
        activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU], record_shapes=True
    ) as record:
        step()
        torch.cuda.synchronize()
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for event in record.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            totals[event.name][0] += event.device_time / 1000
            totals[event.name][1] += 1
    for name, (spent, count) in sorted(totals.items(), key=lambda item: -item[1][0])[:32]:
        print(f"{spent:9.2f} ms {count:6.0f} x  {name[:110]}")
    print("By operation and shape:")
    averages = record.key_averages(group_by_input_shape=True)
    for entry in sorted(averages, key=lambda e: -e.self_device_time_total)[:34]:
        if entry.device_type == torch.autograd.DeviceType.CPU:
            print(
                f"{entry.self_device_time_total / 1000:9.2f} ms {entry.count:6d} x  {entry.key} "
                f"{[s for s in entry.input_shapes if s][:3]}"
            )


def _note_peak_of_weights(device: torch.device) -> list[int]:
    """A list that loading fills with the peak in bytes until every frozen weight is in its place."""
    peaks: list[int] = []
    made = layerwise_model.LayerwiseDecoder

    def make(*arguments: Any, **named: Any) -> Any:
        peaks.append(torch.cuda.max_memory_allocated(device))
        return made(*arguments, **named)

    layerwise_model.LayerwiseDecoder = make
    return peaks


if __name__ == "__main__":
    main()
