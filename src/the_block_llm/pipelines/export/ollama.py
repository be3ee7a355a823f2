"""What Ollama and llama.cpp need beside the weights."""

from typing import Final

from transformers import PreTrainedTokenizerFast

from the_block_llm.models.profiles import ModelProfile

_SYSTEM: Final = "\ue000system\ue001"
_USER: Final = "\ue000user\ue001"
_ASSISTANT: Final = "\ue000assistant\ue001"


def modelfile(tokenizer: PreTrainedTokenizerFast, profile: ModelProfile) -> str:
    """An Ollama ``Modelfile`` beside the weights.

    The template is read off the tokenizer's own, by rendering it with stand-ins.
    """
    lines = [
        "# ollama create NAME -f Modelfile",
        "FROM .",
        *(f'PARAMETER stop "{token}"' for token in profile.stop_tokens),
        "PARAMETER temperature 0",
    ]
    if profile.role == "advisor":
        lines += _chat(tokenizer)
    elif "<fim_prefix>" in tokenizer.get_vocab():
        gap = "<fim_prefix>{{ .Prompt }}<fim_suffix>{{ .Suffix }}<fim_middle>"
        lines.append(
            f'TEMPLATE """{{{{ if .Suffix }}}}{gap}{{{{ else }}}}{{{{ .Prompt }}}}{{{{ end }}}}"""'
        )
    return "\n".join(lines) + "\n"


def _chat(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Ollama writes one turn after the other by this template, the system prompt with the first.

    Which part of the tokenizer's own template belongs to which speaker shows where the same
    speaker comes again.
    """
    system = {"role": "system", "content": _SYSTEM}
    user = {"role": "user", "content": _USER}
    assistant = {"role": "assistant", "content": _ASSISTANT}
    # The turns of: system, user, assistant, user, and then the assistant is to speak.
    whole = _render(tokenizer, [system, user, assistant, user], ends_with_answer=False)
    before, _, rest = whole.partition(_SYSTEM)
    between, _, rest = rest.partition(_USER)
    answer_begin, _, rest = rest.partition(_ASSISTANT)
    next_turn = rest.partition(_USER)[0]
    answered = _render(tokenizer, [system, user, assistant], ends_with_answer=True)
    answer_end = answered.rpartition(_ASSISTANT)[2]
    user_begin = next_turn.removeprefix(answer_end)
    system_end = between.removesuffix(user_begin)
    template = (
        f"{{{{ if .System }}}}{before}{{{{ .System }}}}{system_end}{{{{ end }}}}"
        f"{user_begin}{{{{ .Prompt }}}}{answer_begin}{{{{ .Response }}}}{answer_end}"
    )
    lines = [f'TEMPLATE """{template}"""']
    # What the template tells the model where nobody tells it anything.
    plain = _render(tokenizer, [user], ends_with_answer=False)
    told = plain.removeprefix(before).partition(between)[0]
    if before and plain.startswith(before) and between in plain and told:
        lines.append(f'SYSTEM """{told}"""')
    return lines


def _render(
    tokenizer: PreTrainedTokenizerFast, turns: list[dict[str, str]], *, ends_with_answer: bool
) -> str:
    text = str(
        tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=not ends_with_answer
        )
    )
    # An opening token that the tokenizer itself puts before every text is llama.cpp's to write.
    opens = tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    return text.removeprefix(tokenizer.bos_token) if opens else text


def instructions(name: str) -> str:
    """How to take the exported model elsewhere."""
    return f"""# {name}

A plain bfloat16 model: adapter merged into the base it was trained on, with tokenizer, chat
template and generation settings. `AGREEMENT.json` says how near it comes to the adapter.

With transformers:

    AutoModelForCausalLM.from_pretrained("{name}")

With Ollama, which reads these safetensors itself:

    ollama create my-advisor -f Modelfile

As GGUF, with a checkout of llama.cpp, whose script needs `pip install gguf sentencepiece`:

    python convert_hf_to_gguf.py {name} --outtype bf16 --outfile model.gguf
    llama-quantize model.gguf model-q4_k_m.gguf Q4_K_M
    llama-server -m model-q4_k_m.gguf

Quantising again changes answers: the agreement was measured before it. Compare the two with
your own questions. For Ollama with the GGUF, put its path after FROM in the Modelfile.
"""
