"""Latency, throughput and peak memory of the advisor.

    python benchmarks/advisor.py                  the models of this project, after `kedro run`
    python benchmarks/advisor.py --random FOLDER  random weights with the exact shapes of
                                                  Llama-3.1-8B and StarCoder2-3B, saved in FOLDER

Random weights give meaningless answers but the speed and memory of the real ones. Their tokenizer
has one token per byte, so prompts are long.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from the_block_llm.advisor.advisor import Advisor
from the_block_llm.advisor.output.results import GenerationOptions
from the_block_llm.project.config_loader import project_parameters

QUESTION = "What breaks if consensus stalls while the state manager goes on?"
LLAMA = {
    "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "max_position_embeddings": 131_072, "tie_word_embeddings": False,
    "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
STARCODER = {
    "vocab_size": 49_152, "hidden_size": 3072, "intermediate_size": 12_288,
    "num_hidden_layers": 30, "num_attention_heads": 24, "num_key_value_heads": 2,
    "max_position_embeddings": 16_384, "tie_word_embeddings": True,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", type=Path, metavar="FOLDER")
    parser.add_argument("--cap-gib", type=float)
    options = parser.parse_args()
    parameters = project_parameters(Path(__file__).resolve().parents[1])
    if options.cap_gib:
        parameters["advisor"]["memory_cap_gib"] = options.cap_gib
    if options.random:
        use_random_weights(parameters, options.random)
    advisor = Advisor(parameters)
    on_gpu = torch.cuda.is_available()
    print("device", torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()}")
    print("cap", parameters["advisor"]["memory_cap_gib"], "GiB")
    adapter = "base" if options.random else None
    retrieval = not options.random
    for name in ("first question, including loading the model", "second question"):
        with measured(name):
            started = time.monotonic()
            first_part: list[float] = []
            answer = advisor.analyze_architecture(
                QUESTION,
                long_code() if options.random else "",
                adapter=adapter,
                retrieval=retrieval,
                options=GenerationOptions(max_new_tokens=64),
                on_part=lambda _, s=started, f=first_part: f or f.append(time.monotonic() - s),
            )
            total_s = time.monotonic() - started
        first_part_s = first_part[0] if first_part else total_s
        tokens_per_s = (answer.n_tokens - 1) / max(total_s - first_part_s, 1e-9)
        print(f"  {answer.model}: {answer.n_prompt_tokens:,} prompt tokens, first part after")
        print(f"  {first_part_s:.2f} s, then {tokens_per_s:.1f} tokens/s")
    if not options.random:
        return
    with measured("code completion, including loading the model"):
        completion = advisor.complete_code(
            long_code(), "}\n", adapter="base", options=GenerationOptions(max_new_tokens=64)
        )
    print(f"  {completion.n_prompt_tokens:,} prompt tokens, {completion.n_tokens} new tokens")
    for name in ("hybrid analysis", "hybrid analysis again"):
        with measured(name):
            analysis = advisor.hybrid_analysis(
                long_code(), completion_model="starcoder2-3b@base", model="llama-3.1-8b@base",
                retrieval=False, options=GenerationOptions(max_new_tokens=32),
            )  # fmt: skip
        print(f"  {len(analysis.lines)} lines, {analysis.answer.n_prompt_tokens:,} prompt tokens")


class measured:  # noqa: N801
    """Prints the duration of a step and the peak GPU memory."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        print(f"{self.name}: {time.monotonic() - self.started:.2f} s", end="")
        if torch.cuda.is_available():
            print(f", peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB", end="")
        print(flush=True)


def long_code() -> str:
    return "".join(f"    let balance_{n} = ledger.apply(block, {n * 7});\n" for n in range(160))


def use_random_weights(parameters: dict, folder: Path) -> None:
    fim_tokens = ["<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"]
    save(folder / "llama", LlamaForCausalLM, LlamaConfig(**LLAMA),
         ["<|begin|>", "<|start|>", "<|end|>", "<|pad|>"])  # fmt: skip
    save(folder / "starcoder", Starcoder2ForCausalLM, Starcoder2Config(**STARCODER),
         ["<|endoftext|>", *fim_tokens])  # fmt: skip
    models = parameters["models"]
    models["llama-3.1-8b"] |= {
        "folder": str(folder / "llama"), "hub_id": None, "document_start": None,
        "document_end": "<|end|>", "pad_token": "<|pad|>", "stop_tokens": ["<|end|>"],
    }  # fmt: skip
    models["starcoder2-3b"] |= {"folder": str(folder / "starcoder"), "hub_id": None}
    parameters["model"] = "llama-3.1-8b"
    parameters["advisor"]["adapters_folder"] = str(folder / "adapters")


def save(folder: Path, model_class: type, config: object, special_tokens: list[str]) -> None:
    if (folder / "done").exists():
        return
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*special_tokens, *alphabet]
    vocabulary += [f"w{n}" for n in range(config.vocab_size - len(vocabulary))]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: n for n, token in enumerate(vocabulary)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special_tokens)
    chat = (
        "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>" if "<|end|>" in special_tokens else "<|endoftext|>",
        pad_token=special_tokens[-1],
        chat_template=chat if "<|start|>" in special_tokens else None,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = model_class(config)
    torch.set_default_dtype(torch.float32)
    model.to("cpu").save_pretrained(folder, max_shard_size="2GB")
    del model
    torch.cuda.empty_cache()
    (folder / "done").write_text(json.dumps({"random": True}))


if __name__ == "__main__":
    main()
