"""What training Llama-3.1-8B would need, by the memory plan alone: no weights, no GPU.

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

# Of a card with 8 GB, roughly; they only put plans in order. A run measures its own.
RATES = DeviceRates(matmul_flops=6e13, memory_bytes=2.5e11, host_bytes=1.2e10)
TARGETS = frozenset({"q_proj", "k_proj", "v_proj", "up_proj", "down_proj"})


def main() -> None:
    """Print the plan, item by item, or what stands in its way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=7.0, help="GPU memory for PyTorch")
    parser.add_argument("--host-gib", type=float, default=64.0)
    parser.add_argument("--row-tokens", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=8, help="of an optimizer step")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--layers", choices=["auto", "resident", "streamed"], default="auto")
    given = parser.parse_args()
    shape = decoder_shape(
        LlamaConfig(
            vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32,
            num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=False,
        )
    )  # fmt: skip
    assert shape is not None
    size = TrainingWorkload(shape, given.rank, TARGETS, given.row_tokens, given.rows)
    console = Console()
    try:
        plan = plan_training(
            size, int(given.gib * GIB), int(given.host_gib * GIB), RATES, given.layers
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
    table.add_row("with what the allocator reserves", f"{plan.reserved_bytes / 2**20:,.0f}")
    table.add_row("host memory", f"{plan.host_bytes / 2**20:,.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
