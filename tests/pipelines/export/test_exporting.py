import json
import re

import pytest
import torch
from tests.builders.advised_repository import write_adapter
from tests.builders.tiny_llama import byte_tokenizer, save_tiny_llama, tiny_profile
from tests.builders.tiny_starcoder import save_tiny_starcoder
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from the_block_llm.errors import ExportError
from the_block_llm.models.adapter.adapters import load_model_with_adapter
from the_block_llm.models.adapter.manifest import open_adapter
from the_block_llm.pipelines.export import exporting
from the_block_llm.pipelines.export.exporting import export_adapter
from the_block_llm.pipelines.export.ollama import modelfile
from the_block_llm.pipelines.export.params import ExportParams

VERSION = "2026-01-01T00.00.00Z"
PROBES = [{"prompt": f"Why {n}?", "context": "fn a() {}" * (n % 2)} for n in range(4)]


@pytest.fixture(scope="module")
def profile_and_adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    save_tiny_llama(folder / "llama")
    return tiny_profile(folder / "llama"), open_adapter(write_adapter(folder, VERSION))


def params(folder, **changed):
    values = {
        "folder": folder, "shard_mib": 1, "probes": 3, "answer_tokens": 12,
        "max_nll_difference": 0.05, "min_token_agreement": 0.9,
    }  # fmt: skip
    return ExportParams(**{**values, **changed})


@pytest.fixture(scope="module")
def exported(profile_and_adapter, tmp_path_factory):
    profile, adapter = profile_and_adapter
    folder = tmp_path_factory.mktemp("exported")
    report = export_adapter(adapter, profile, PROBES, params(folder))
    return folder / f"tiny@{VERSION}", report


def test_exported_model_loads_with_transformers_and_matches_the_adapter(
    profile_and_adapter, exported
):
    profile, adapter = profile_and_adapter
    folder, report = exported
    merged, loading_info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not loading_info["missing_keys"]
    assert not loading_info["unexpected_keys"]
    ids = torch.arange(5, 60)[None]
    with torch.no_grad():
        tuned = load_model_with_adapter(profile, adapter.path)
        plain = AutoModelForCausalLM.from_pretrained(profile.folder, dtype=torch.float32)
        difference = (merged.eval()(ids).logits - tuned(ids).logits).abs().mean()
        base_difference = (plain.eval()(ids).logits - tuned(ids).logits).abs().mean()
    assert difference < base_difference / 20, "the adapter is merged"
    assert report["agreement"]["n_answers"] == 3
    assert report["agreement"]["nats_apart"] <= 0.05


def test_export_writes_configuration_tokenizer_and_report(exported):
    folder, report = exported
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [0, 2]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == byte_tokenizer().chat_template
    agreement = json.loads((folder / "AGREEMENT.json").read_text())
    assert agreement == {key: value for key, value in report.items() if key != "folder"}
    assert "llama.cpp" in (folder / "README.md").read_text()
    assert report["folder"] == str(folder)
    assert all(file.stat().st_mode & 0o044 for file in folder.iterdir()), "readable by other users"
    # The folder is given to others.
    private = str(folder.parent.parent).encode()
    assert not [file.name for file in folder.iterdir() if private in file.read_bytes()]


def test_sharded_weights_equal_a_single_file(profile_and_adapter, exported, tmp_path, monkeypatch):
    profile, adapter = profile_and_adapter
    original = exporting.write_merged
    shard_bytes = 50_000
    monkeypatch.setattr(
        exporting, "write_merged", lambda *values: original(*values[:-1], shard_bytes)
    )
    export_adapter(adapter, profile, PROBES, params(tmp_path))
    folder = tmp_path / f"tiny@{VERSION}"
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    sharded, single = (
        AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (folder, exported[0])
    )
    assert sharded.keys() == single.keys()
    assert all(torch.equal(sharded[name], single[name]) for name in single)


def test_model_that_differs_is_not_exported(profile_and_adapter, tmp_path, monkeypatch):
    profile, adapter = profile_and_adapter
    original = exporting._load_merged

    def load_damaged(folder):
        model = original(folder)
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight.mul_(-1)
        return model

    monkeypatch.setattr(exporting, "_load_merged", load_damaged)
    with pytest.raises(ExportError, match="Nothing was exported"):
        export_adapter(adapter, profile, PROBES, params(tmp_path))
    assert list(tmp_path.iterdir()) == []


LLAMA_3 = (
    "{% for message in messages %}<|start_header_id|>{{ message.role }}"
    "<|end_header_id|>\n\n{{ message.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def render_with_ollama(text, turns, system):
    """Render a conversation as Ollama does: turn by turn, up to the next answer."""
    template = re.search(r'TEMPLATE """(.*?)"""', text, re.DOTALL)[1]
    system_part, rest = re.fullmatch(
        r"{{ if .System }}(.*){{ end }}(.*)", template, re.DOTALL
    ).groups()
    prompt = ""
    for question, answer in turns:
        before_answer, after_answer = rest.split("{{ .Response }}")
        prompt += system_part.replace("{{ .System }}", system) if system else ""
        prompt += before_answer.replace("{{ .Prompt }}", question)
        prompt += answer + after_answer if answer else ""
        system = ""
    return prompt


@pytest.mark.parametrize("template", [None, LLAMA_3], ids=["ChatML", "Llama 3"])
@pytest.mark.parametrize("system", ["", "Be kind."])
def test_ollama_template_renders_conversations_as_the_chat_template(tmp_path, template, system):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template or tokenizer.chat_template
    text = modelfile(tokenizer, tiny_profile(tmp_path))
    assert 'PARAMETER stop "<|im_end|>"' in text
    messages = [
        *([{"role": "system", "content": system}] if system else []),
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "And how?"},
    ]
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    found = render_with_ollama(text, [("Why?", "So."), ("And how?", "")], system)
    assert found == expected


def test_default_system_prompt_is_written_to_the_modelfile(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
        + tokenizer.chat_template
    )
    assert 'SYSTEM """Be kind."""' in modelfile(tokenizer, tiny_profile(tmp_path))


def test_completion_model_gets_a_fill_in_the_middle_template(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(save_tiny_starcoder(tmp_path))
    text = modelfile(tokenizer, tiny_profile(tmp_path).model_copy(update={"role": "completion"}))
    assert "<fim_prefix>{{ .Prompt }}<fim_suffix>{{ .Suffix }}<fim_middle>" in text
