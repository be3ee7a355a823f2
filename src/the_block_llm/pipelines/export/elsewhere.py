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
    system = {"role": "system", "content": _SYSTEM}
    user = {"role": "user", "content": _USER}
    assistant = {"role": "assistant", "content": _ASSISTANT}
    asked = _render(tokenizer, [system, user], ends_with_answer=False)
    whole = _render(tokenizer, [system, user, assistant], ends_with_answer=True)
    end = whole.rpartition(_ASSISTANT)[2].rstrip()
    template = asked.replace(_SYSTEM, "{{ .System }}").replace(_USER, "{{ .Prompt }}")
    lines = [f'TEMPLATE """{template}{{{{ .Response }}}}{end}"""']
    # What the template tells the model where nobody tells it anything.
    before, _, rest = asked.partition(_SYSTEM)
    between = rest.partition(_USER)[0]
    plain = _render(tokenizer, [user], ends_with_answer=False)
    if before and plain.startswith(before) and between in plain:
        lines.append(f'SYSTEM """{plain.removeprefix(before).partition(between)[0]}"""')
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

As GGUF, with a checkout of llama.cpp:

    python convert_hf_to_gguf.py {name} --outtype bf16 --outfile model.gguf
    llama-quantize model.gguf model-q4_k_m.gguf Q4_K_M
    llama-server -m model-q4_k_m.gguf

Quantising again changes answers: the agreement was measured before it. Compare the two with
your own questions. For Ollama with the GGUF, put its path after FROM in the Modelfile.
"""
