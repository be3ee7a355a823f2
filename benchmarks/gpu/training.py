"""Compare memory and speed of training Llama-3.1-8B with other libraries in one run.

    python benchmarks/gpu/random_llama.py /tmp/llama --tokenizer FOLDER
    python benchmarks/gpu/training.py /tmp/llama [--only NAME …] [--json FILE]

Each case runs in a separate process. This project (``ours``) is measured through its ``train``:
load, validate, train, save. Libraries that are not installed are skipped and reported. Every token
has a label; tokens/s are those of complete optimizer steps after the first.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

GIB = 2**30
TARGETS = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
# Name, engine, micro-batch rows, tokens per row, rows per step, memory cap in GiB, options.
CASES: list[tuple[str, str, int | None, int, int, float | None, dict[str, Any]]] = [
    ("ours 1024", "ours", None, 1024, 8, 7.0, {"steps": 5}),
    ("ours streamed 1024", "ours", None, 1024, 8, 7.0, {"steps": 4, "layers": "streamed"}),
    ("unsloth 4 x 1024", "unsloth", 4, 1024, 8, 7.0, {"steps": 5}),
    ("unsloth 8 x 1024", "unsloth", 8, 1024, 8, 7.0, {"steps": 3}),
    ("liger 2 x 1024", "liger", 2, 1024, 8, 7.0, {"steps": 3}),
    ("plain 1 x 1024", "plain", 1, 1024, 8, None, {"steps": 3}),
    ("ours 12288", "ours", None, 12_288, 2, 7.0, {"steps": 4}),
    ("unsloth 1 x 12288 tiled", "unsloth", 1, 12_288, 2, 7.0, {"steps": 3, "tiled": True}),
    ("unsloth 1 x 6144", "unsloth", 1, 6144, 2, 7.0, {"steps": 3}),
    ("ours 65536", "ours", None, 65_536, 1, 7.0, {"steps": 2}),
    ("ours 131072", "ours", None, 131_072, 1, 7.0, {"steps": 1}),
    ("ours 16384 in 3 GiB", "ours", None, 16_384, 1, 3.0, {"steps": 3}),
    ("ours 32768 in 3 GiB", "ours", None, 32_768, 1, 3.0, {"steps": 2}),
    ("ours 1 x 1024", "ours", 1, 1024, 1, 1.32, {"steps": 4}),
    ("ours 1 x 1024 smallest", "ours", 1, 1024, 1, 1.05, {"steps": 4}),
]


def run_ours(model: Path, case: dict[str, Any]) -> dict[str, Any]:
    """Train with ``qlora_train``, from packed rows to a saved adapter."""
    import tempfile

    import pyarrow as pa
    import torch
    import yaml

    from the_block_llm.datasets.parquet_table import save_table
    from the_block_llm.models.profiles import ModelProfiles, resolve_profile
    from the_block_llm.models.resource_limits import MemoryLimits
    from the_block_llm.pipelines.qlora_train.job import TrainingJob
    from the_block_llm.pipelines.qlora_train.loop.train_run import train
    from the_block_llm.schemas import ROWS

    parameters = Path(__file__).parents[2] / "conf" / "base" / "parameters_models.yml"
    text = parameters.read_text(encoding="utf-8").replace("${project_path:", "").replace("}", "")
    profiles = ModelProfiles.model_validate(yaml.safe_load(text)["models"])
    cache = model.parent / "cache"
    profile = resolve_profile(profiles, str(model)).model_copy(update={"cache_folder": str(cache)})
    if not case.get("dropout"):
        lora = profile.lora.model_copy(update={"dropout": 0.0})
        profile = profile.model_copy(update={"lora": lora})
    length, batch = case["row_tokens"], case["effective_rows"]
    with tempfile.TemporaryDirectory() as folder:
        generator = torch.Generator().manual_seed(0)
        for name, n_rows in (("train", batch * case["steps"]), ("validation", 1)):
            rows = [
                {
                    "input_ids": torch.randint(128_000, (length,), generator=generator).tolist(),
                    "labels_mask": [True] * length,
                    "segment_lengths": [length],
                    "document_ids": ["random"],
                    "n_tokens": length,
                    "stage": 0,
                }
                for _ in range(n_rows)
            ]
            save_table(Path(folder) / name, ROWS, [pa.Table.from_pylist(rows, schema=ROWS)])
        values = profile.training.model_copy(
            update={"effective_batch_rows": batch, "eval_steps": 1000, "save_steps": 1000}
        )
        job = TrainingJob(
            profile=profile,
            values=values,
            force_epochs=1,
            max_steps=case["steps"],
            train_folder=Path(folder) / "train",
            validation_folder=Path(folder) / "validation",
            work_folder=Path(folder) / "models",
            git_commit=None,
            limits=MemoryLimits(
                engine="layerwise",
                layers=case.get("layers", "auto"),
                device_gib=case["cap_gib"],
                host_gib=case.get("host_gib", 100.0),
                micro_batch_rows=case["micro_rows"],
            ),
        )
        metrics = train(job).metrics
    steps = [entry["step_seconds"] for entry in metrics["train_history"]]
    return {
        "plan": metrics["memory_plan"],
        "predicted_gib": metrics["predicted_peak_gib"],
        "allocated_gib": metrics["peak_memory_gib"],
        "step_seconds": steps,
        "loss": [entry["loss"] for entry in metrics["train_history"]],
        "validation_loss": metrics["validation_loss_after"],
    }


def run_other(model: Path, case: dict[str, Any]) -> dict[str, Any]:
    """Train another library's model in a plain loop: its checkpointing, 8-bit AdamW, no dropout."""
    import torch

    length = case["row_tokens"]
    network = {"unsloth": _unsloth, "liger": _liger, "plain": _plain}[case["engine"]](model, case)
    import bitsandbytes as bnb

    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = bnb.optim.AdamW8bit(trained, lr=2e-4)
    generator = torch.Generator().manual_seed(0)
    micro_rows = case["micro_rows"]
    accumulation_steps = case["effective_rows"] // micro_rows
    seconds, losses = [], []
    network.train()
    for _ in range(case["steps"]):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step_loss = 0.0
        for _ in range(accumulation_steps):
            ids = torch.randint(128_000, (micro_rows, length), generator=generator).cuda()
            with torch.autocast("cuda", torch.bfloat16):
                loss = network(input_ids=ids, labels=ids).loss / accumulation_steps
            loss.backward()
            step_loss += loss.detach()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(step_loss))
        torch.cuda.synchronize()
        seconds.append(round(time.perf_counter() - start, 4))
    return {"step_seconds": seconds, "loss": losses}


def _unsloth(model: Path, case: dict[str, Any]) -> Any:
    from unsloth import FastLanguageModel

    network, _ = FastLanguageModel.from_pretrained(
        str(model), max_seq_length=case["row_tokens"], load_in_4bit=True, dtype=None,
        **({"unsloth_tiled_mlp": True} if case.get("tiled") else {}),
    )  # fmt: skip
    return FastLanguageModel.get_peft_model(
        network, r=32, lora_alpha=64, lora_dropout=0, bias="none", target_modules=TARGETS,
        use_gradient_checkpointing="unsloth", random_state=42,
    )  # fmt: skip


def _base(model: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    return AutoModelForCausalLM.from_pretrained(
        str(model),
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
        dtype=torch.bfloat16,
        device_map={"": 0},
        attn_implementation="sdpa",
    )


def _liger(model: Path, case: dict[str, Any]) -> Any:
    from liger_kernel.transformers import apply_liger_kernel_to_llama
    from peft import LoraConfig, get_peft_model

    del case
    apply_liger_kernel_to_llama()
    network = _base(model)
    network.requires_grad_(False)
    network.gradient_checkpointing_enable({"use_reentrant": False})
    network.enable_input_require_grads()
    return get_peft_model(network, LoraConfig(r=32, lora_alpha=64, target_modules=TARGETS))


def _plain(model: Path, case: dict[str, Any]) -> Any:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    del case
    network = prepare_model_for_kbit_training(_base(model))
    return get_peft_model(network, LoraConfig(r=32, lora_alpha=64, target_modules=TARGETS))


def run_case(model: Path, case: dict[str, Any]) -> None:
    """Run a case in this process and print its results as one line of JSON."""
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    import resource

    import torch

    if case["cap_gib"]:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(case["cap_gib"] * GIB / total)
    start = time.perf_counter()
    try:
        result = run_ours(model, case) if case["engine"] == "ours" else run_other(model, case)
    except ImportError as error:
        result = {"skipped": f"not installed: {error}"}
    except Exception as error:  # failures are results as well
        result = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
    seconds = result.get("step_seconds", [])
    # The first step also compiles kernels; it counts only if there is no other.
    steady = seconds[1:] or seconds
    if steady:
        tokens = case["effective_rows"] * case["row_tokens"]
        result["tokens_per_second"] = round(tokens / min(steady), 1)
        result["tokens_per_second_mean"] = round(tokens * len(steady) / sum(steady), 1)
    # Prefer the run's own figure: it records each step's peak and resets the statistics.
    result.setdefault("allocated_gib", round(torch.cuda.max_memory_allocated() / GIB, 3))
    result |= {
        "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 3),
        "nvml_gib": _nvml_gib(),
        "host_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "seconds": round(time.perf_counter() - start, 1),
    }
    print("RESULT " + json.dumps(result), flush=True)


def _nvml_gib() -> float | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        return round(pynvml.nvmlDeviceGetMemoryInfo(handle).used / GIB, 2)
    except Exception:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--only", nargs="*", help="prefixes of the names of the cases to run")
    parser.add_argument("--json", type=Path, help="write all results to this file")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        run_case(arguments.model, json.loads(arguments.case))
        return
    results = {}
    for name, engine, micro_rows, row_tokens, effective_rows, cap_gib, options in CASES:
        if arguments.only and not any(name.startswith(prefix) for prefix in arguments.only):
            continue
        case = {
            "engine": engine, "micro_rows": micro_rows, "row_tokens": row_tokens,
            "effective_rows": effective_rows, "cap_gib": cap_gib, **options,
        }  # fmt: skip
        command = [sys.executable, __file__, str(arguments.model), "--case", json.dumps(case)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        line = next((x for x in run.stdout.splitlines() if x.startswith("RESULT ")), None)
        result = json.loads(line[7:]) if line else {"failed": (run.stderr or run.stdout)[-400:]}
        results[name] = {**case, **result}
        print(_format_row(name, case, result), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


def _format_row(name: str, case: dict[str, Any], result: dict[str, Any]) -> str:
    if "tokens_per_second" not in result:
        return f"{name:26} {result.get('skipped') or result.get('failed')}"
    predicted = f" predicted {result['predicted_gib']:.2f}" if result.get("predicted_gib") else ""
    cap = f"{case['cap_gib']:.2f}" if case["cap_gib"] else "none"
    return (
        f"{name:26} cap {cap}  allocated {result['allocated_gib']:.2f}{predicted}  reserved "
        f"{result['reserved_gib']:.2f} GiB  host {result['host_gib']:.1f} GiB  "
        f"{result['tokens_per_second']:,.0f} tokens/s (mean {result['tokens_per_second_mean']:,.0f})"
        f"  {result['seconds']:.0f} s in total  {result.get('plan') or ''}"
    )


if __name__ == "__main__":
    main()
