"""Compare the predicted and the measured peak memory of plain training on a CPU.

python benchmarks/plain_memory.py FOLDER --rows 1x256 2x256 1x512 2x512

FOLDER contains the weights of SmolLM2-135M, as written by `kedro run` to
data/06_models/base/smollm2-135m. Each line measures two training steps (forward, backward,
optimizer) after loading, in a new process. Linux only.
"""

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from the_block_llm.models.base.quantized_loading import disable_inference_repacking
from the_block_llm.models.base.sources import load_tokenizer
from the_block_llm.models.factory import load_trainable
from the_block_llm.models.plain.memory_plan import HEAP_ITEM, lower_mmap_threshold, plan_plain
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.qlora_train.runtime.memory_stats import (
    peak_memory_gib,
    reset_peak_memory,
)
from the_block_llm.pipelines.qlora_train.runtime.out_of_memory import copy_trainable_parameters

PROFILES = Path(__file__).parents[1] / "conf/base/parameters_models.yml"
CPU = torch.device("cpu")


def main() -> None:
    """Print the table; with ``--one`` measure a single line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", nargs="+", default=["1x256", "2x256", "1x512", "2x512"])
    parser.add_argument("--tight", action="store_true", help="return freed memory immediately")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments.folder, *(int(n) for n in arguments.rows[0].split("x")), arguments.tight)
        return
    print("rows x tokens   predicted GiB  measured GiB   ratio", flush=True)
    for size in arguments.rows:
        command = [sys.executable, __file__, str(arguments.folder), "--rows", size, "--one"]
        command += ["--tight"] * arguments.tight
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def measure(folder: Path, rows: int, row_tokens: int, low_threshold: bool) -> None:
    """Plan, load, train two steps and print one line of the table."""
    values = yaml.safe_load(PROFILES.read_text(encoding="utf-8"))["models"]["smollm2-135m"]
    profile = ModelProfile.model_validate({**values, "name": "smollm2-135m", "folder": str(folder)})
    plan = plan_plain(profile, row_tokens, rows, rows, 2**50)
    assert plan is not None
    if low_threshold:
        lower_mmap_threshold()
        items = {**plan.device_items, HEAP_ITEM: 0}
        plan = replace(plan, lowers_mmap_threshold=True, device_items=items)
    trainable = load_trainable(profile, 42, CPU, plan, load_tokenizer(profile))
    model = trainable.model.train()
    disable_inference_repacking(model)
    untrained = copy_trainable_parameters(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    packed = [
        {
            "input_ids": torch.randint(0, 49_152, (row_tokens,), generator=generator).tolist(),
            "labels_mask": [True] * row_tokens,
            "segment_lengths": [row_tokens // 3, row_tokens - row_tokens // 3],
        }
        for _ in range(rows)
    ]
    reset_peak_memory(CPU)
    for _ in range(2):
        model(**trainable.collate(packed)).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    predicted, measured = plan.device_bytes / 2**30, peak_memory_gib(CPU)
    size = f"{rows}x{row_tokens}"
    print(f"{size:<16}{predicted:<15.3f}{measured:<15.3f}{predicted / measured:.3f}", flush=True)
    del untrained


if __name__ == "__main__":
    main()
