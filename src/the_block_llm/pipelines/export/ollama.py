"""Files for Ollama and llama.cpp next to the exported weights."""

from typing import Final

from transformers import PreTrainedTokenizerFast

from the_block_llm.models.profiles import ModelProfile

# Placeholders from the Unicode private use area, which no chat template contains.
_SYSTEM: Final = "\ue000system\ue001"
_USER: Final = "\ue000user\ue001"
_ASSISTANT: Final = "\ue000assistant\ue001"


def modelfile(tokenizer: PreTrainedTokenizerFast, profile: ModelProfile) -> str:
    """Return the Ollama ``Modelfile`` of a model.

    Its template is derived from the tokenizer's chat template, rendered with placeholders.
    """
    lines = [
        "# ollama create NAME -f Modelfile",
        "FROM .",
        *(f'PARAMETER stop "{token}"' for token in profile.stop_tokens),
        "PARAMETER temperature 0",
    ]
    if profile.role == "advisor":
        lines += _chat_directives(tokenizer)
    elif "<fim_prefix>" in tokenizer.get_vocab():
        fim = "<fim_prefix>{{ .Prompt }}<fim_suffix>{{ .Suffix }}<fim_middle>"
        lines.append(
            f'TEMPLATE """{{{{ if .Suffix }}}}{fim}{{{{ else }}}}{{{{ .Prompt }}}}{{{{ end }}}}"""'
        )
    return "\n".join(lines) + "\n"


def _chat_directives(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return ``TEMPLATE``, and ``SYSTEM`` if the chat template has a default system prompt.

    Ollama applies the template once per turn, with the system prompt in the first turn. The
    delimiters of each role are found by rendering a conversation in which the user speaks twice:
    text that occurs before both user messages belongs to the user role.
    """
    system = {"role": "system", "content": _SYSTEM}
    user = {"role": "user", "content": _USER}
    assistant = {"role": "assistant", "content": _ASSISTANT}
    # Ends with the prefix of the next assistant message.
    conversation = _render(tokenizer, [system, user, assistant, user], ends_with_answer=False)
    system_prefix, _, rest = conversation.partition(_SYSTEM)
    system_to_user, _, rest = rest.partition(_USER)
    assistant_prefix, _, rest = rest.partition(_ASSISTANT)
    assistant_to_user = rest.partition(_USER)[0]
    answered = _render(tokenizer, [system, user, assistant], ends_with_answer=True)
    assistant_suffix = answered.rpartition(_ASSISTANT)[2]
    user_prefix = assistant_to_user.removeprefix(assistant_suffix)
    system_suffix = system_to_user.removesuffix(user_prefix)
    template = (
        f"{{{{ if .System }}}}{system_prefix}{{{{ .System }}}}{system_suffix}{{{{ end }}}}"
        f"{user_prefix}{{{{ .Prompt }}}}{assistant_prefix}{{{{ .Response }}}}{assistant_suffix}"
    )
    lines = [f'TEMPLATE """{template}"""']
    # Without a system message some chat templates insert a default system prompt.
    without_system = _render(tokenizer, [user], ends_with_answer=False)
    default_system = without_system.removeprefix(system_prefix).partition(system_to_user)[0]
    if (
        system_prefix
        and without_system.startswith(system_prefix)
        and system_to_user in without_system
        and default_system
    ):
        lines.append(f'SYSTEM """{default_system}"""')
    return lines


def _render(
    tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]], *, ends_with_answer: bool
) -> str:
    text = str(
        tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=not ends_with_answer
        )
    )
    # llama.cpp adds a BOS token if the tokenizer does, so it must not be in the template as well.
    adds_bos = tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    return text.removeprefix(tokenizer.bos_token) if adds_bos else text


def model_card(name: str) -> str:
    """Return the ``README.md`` of an exported model: how to load it with other programs."""
    return f"""# {name}

A plain bfloat16 model: the adapter merged into its base model, with tokenizer, chat template and
generation configuration. `AGREEMENT.json` has the measured difference from the adapter.

With transformers:

    AutoModelForCausalLM.from_pretrained("{name}")

With Ollama, which reads safetensors files directly:

    ollama create my-advisor -f Modelfile

As GGUF, with a checkout of llama.cpp (its script needs `pip install gguf sentencepiece`):

    python convert_hf_to_gguf.py {name} --outtype bf16 --outfile model.gguf
    llama-quantize model.gguf model-q4_k_m.gguf Q4_K_M
    llama-server -m model-q4_k_m.gguf

The agreement was measured before any further quantization, which changes answers. Compare the
models with your own questions. To use the GGUF file with Ollama, put its path after FROM in the
Modelfile.
"""
