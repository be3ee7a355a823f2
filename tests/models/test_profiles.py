import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from the_block_llm.errors import ModelUnavailableError, ProfileError
from the_block_llm.models.profiles import (
    ModelProfile,
    ModelProfiles,
    profile_name,
    resolve_profile,
)

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def profiles() -> ModelProfiles:
    text = (PROJECT / "conf/base/parameters_models.yml").read_text()
    return ModelProfiles.model_validate(yaml.safe_load(text)["models"])


def test_values_of_the_shipped_profiles(profiles: ModelProfiles) -> None:
    values = {
        name: (p.lora.r, p.lora.alpha, p.context_tokens, p.overlap_tokens, p.training.learning_rate)
        for name, p in profiles.root.items()
    }
    assert values == {
        "smollm2-135m": (16, 32, 512, 128, 2e-4),
        "llama-3.1-8b": (32, 64, 1024, 256, 2e-4),
        "starcoder2-3b": (16, 32, 512, 128, 1e-4),
    }


def test_profile_is_resolved_by_name(profiles: ModelProfiles) -> None:
    assert resolve_profile(profiles, "llama-3.1-8b").name == "llama-3.1-8b"


def test_unknown_profile_is_an_error_that_lists_the_known_ones(profiles: ModelProfiles) -> None:
    with pytest.raises(ProfileError, match="llama-3.1-8b, smollm2-135m, starcoder2-3b"):
        resolve_profile(profiles, "llama-4")


def test_folder_of_weights_uses_the_profile_of_its_architecture(
    profiles: ModelProfiles, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 4096}))
    profile = resolve_profile(profiles, str(tmp_path))
    assert (profile.folder, profile.hub_id, profile.lora.r) == (str(tmp_path), None, 32)
    assert profile.name == tmp_path.name == profile_name(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (None, ModelUnavailableError, "contains no model"),
        ("{", ModelUnavailableError, "contains no model"),
        ('{"model_type": "gpt2", "hidden_size": 768}', ProfileError, "model_type gpt2"),
    ],
)
def test_folder_without_a_supported_model_is_rejected(
    profiles: ModelProfiles,
    tmp_path: Path,
    config: str | None,
    error: type[Exception],
    message: str,
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(error, match=message):
        resolve_profile(profiles, str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hub_id": None}, "source of the model"),
        ({"wheel": "some_wheel"}, "remove one"),
        ({"overlap_tokens": 600}, "more than half"),
        ({"typo": 1}, "Extra inputs"),
        ({"context_tokens": "long"}, "valid integer"),
    ],
)
def test_inconsistent_profile_is_rejected(
    profiles: ModelProfiles, changes: dict[str, Any], message: str
) -> None:
    values = profiles.root["llama-3.1-8b"].model_dump()
    with pytest.raises(ValidationError, match=message):
        ModelProfile.model_validate({**values, **changes})
