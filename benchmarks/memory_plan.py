"""Print the memory plan for training Llama-3.1-8B; needs no weights and no GPU.

python benchmarks/memory_plan.py --gib 7 --row-tokens 65536
"""

import argparse

from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig

from the_block_llm.errors import MemoryPlanError
from the_block_llm.models.layerwise.architecture import decoder_shape
from the_block_llm.models.layerwise.planner.cost_model import DeviceRates
from the_block_llm.models.layerwise.planner.memory_model import TrainingWorkload
from the_block_llm.models.layerwise.planner.plan_search import GIB, plan_training

# Approximate rates of a card with 8 GB, used to rank plans; a run measures those of its device.
RATES = DeviceRates(matmul_flops_per_s=6e13, memory_bytes_per_s=2.5e11, host_bytes_per_s=1.2e10)
TARGETS = frozenset({"q_proj", "k_proj", "v_proj", "up_proj", "down_proj"})


def main() -> None:
    """Print the plan, item by item, or why none fits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=7.0, help="GPU memory for PyTorch, in GiB")
    parser.add_argument("--host-gib", type=float, default=64.0, help="host memory, in GiB")
    parser.add_argument("--row-tokens", type=int, default=1024, help="tokens per row")
    parser.add_argument("--rows", type=int, default=8, help="rows per optimizer step")
    parser.add_argument("--rank", type=int, default=32, help="LoRA rank")
    parser.add_argument("--layers", choices=["auto", "resident", "streamed"], default="auto")
    arguments = parser.parse_args()
    shape = decoder_shape(
        LlamaConfig(
            vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32,
            num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=False,
        )
    )  # fmt: skip
    assert shape is not None
    workload = TrainingWorkload(
        shape, arguments.rank, TARGETS, arguments.row_tokens, arguments.rows
    )
    console = Console()
    try:
        plan = plan_training(
            workload,
            int(arguments.gib * GIB),
            int(arguments.host_gib * GIB),
            RATES,
            arguments.layers,
        )
    except MemoryPlanError as error:
        console.print(str(error), markup=False)
        return
    console.print(plan.describe(), markup=False, soft_wrap=True)
    table = Table("on the GPU", "MiB")
    for name, n_bytes in plan.device_items.items():
        table.add_row(name, f"{n_bytes / 2**20:,.0f}")
    table.add_section()
    table.add_row("peak", f"{plan.device_bytes / 2**20:,.0f}")
    table.add_row("with the allocator's overhead", f"{plan.reserved_bytes / 2**20:,.0f}")
    table.add_row("host memory", f"{plan.host_bytes / 2**20:,.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
