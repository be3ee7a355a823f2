"""Compare training on several GPUs of one machine, layers replicated and sharded, with one GPU.

    python benchmarks/gpu/random_llama.py /tmp/llama --tokenizer FOLDER
    python benchmarks/gpu/several_gpus.py /tmp/llama [--gpus 1 2 4] [--row-tokens 1024]

Calls the project's ``train_distributed``: load, validate, train, save. tokens/s is the median of the
steps after the first; GiB is the peak that PyTorch allocated in the first process.
"""

import argparse
import logging
import multiprocessing
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import yaml

from the_block_llm.datasets.parquet_table import save_table
from the_block_llm.models.profiles import ModelProfiles, resolve_profile
from the_block_llm.models.resource_limits import MemoryLimits
from the_block_llm.pipelines.qlora_train.job import TrainingJob
from the_block_llm.pipelines.qlora_train.launch.launcher import train_distributed
from the_block_llm.schemas import ROWS

N_STEPS, EFFECTIVE_ROWS = 6, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--gpus", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--row-tokens", type=int, default=1024)
    parser.add_argument(
        "--rows",
        type=int,
        default=4,
        help="rows per micro-batch of each process, with sharded layers",
    )
    arguments = parser.parse_args()
    print(f"{'':16} {'GPUs':>5} {'tokens/s':>10} {'x one':>6} {'GiB':>6} {'loss':>8}")
    single_gpu_speed = 0.0
    for n_gpus in arguments.gpus:
        for layers in ("auto", "sharded") if n_gpus > 1 else ("auto",):
            # In a separate process, so that memory held by one run is free for the next.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
                speed, gib, loss = executor.submit(
                    measure, arguments.model, n_gpus, layers, arguments.row_tokens, arguments.rows
                ).result()
            single_gpu_speed = single_gpu_speed or speed
            name = "replicated" if layers == "auto" else layers
            print(
                f"{name:16} {n_gpus:5} {speed:10,.0f} {speed / single_gpu_speed:6.2f} {gib:6.2f} {loss:8.4f}",
                flush=True,
            )


def measure(
    model: Path, n_gpus: int, layers: Any, row_tokens: int, sharded_rows: int
) -> tuple[float, float, float]:
    logging.basicConfig(level=logging.INFO)
    parameters = Path(__file__).parents[2] / "conf" / "base" / "parameters_models.yml"
    text = parameters.read_text(encoding="utf-8").replace("${project_path:", "").replace("}", "")
    profiles = ModelProfiles.model_validate(yaml.safe_load(text)["models"])
    profile = resolve_profile(profiles, str(model))
    lora = profile.lora.model_copy(update={"dropout": 0.0})
    profile = profile.model_copy(update={"cache_folder": str(model.parent / "cache"), "lora": lora})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generator = torch.Generator().manual_seed(0)
        for table, n_rows in (("train", N_STEPS * EFFECTIVE_ROWS), ("validation", 2)):
            rows = [
                {
                    "input_ids": torch.randint(200, (row_tokens,), generator=generator).tolist(),
                    "labels_mask": [True] * row_tokens,
                    "segment_lengths": [row_tokens],
                    "document_ids": ["random"],
                    "n_tokens": row_tokens,
                    "stage": 0,
                }
                for _ in range(n_rows)
            ]
            save_table(folder / table, ROWS, [pa.Table.from_pylist(rows, schema=ROWS)])
        values = profile.training.model_copy(
            update={
                "effective_batch_rows": EFFECTIVE_ROWS, "eval_steps": 1000, "save_steps": 1000,
                # Replicated layers: the memory plan chooses.
                "micro_batch_rows": sharded_rows,
            }
        )  # fmt: skip
        result = train_distributed(
            TrainingJob(
                profile=profile,
                values=values,
                force_epochs=1,
                max_steps=None,
                train_folder=folder / "train",
                validation_folder=folder / "validation",
                work_folder=folder / "models",
                git_commit=None,
                n_processes=n_gpus,
                limits=MemoryLimits(layers=layers),
            )
        )
    steps = result.metrics["train_history"][1:]
    speed = statistics.median(step["tokens"] / step["step_seconds"] for step in steps)
    return speed, result.metrics["peak_memory_gib"], steps[-1]["loss"]


if __name__ == "__main__":
    main()
