"""Read a model profile from conf/base without importing Kedro or torch."""

from pathlib import Path

import yaml

from the_block_llm.models.profiles import ModelProfile, ModelProfiles, resolve_profile


def chosen_profile(name: str) -> ModelProfile:
    """Return the profile of that name, or the one derived for a folder of weights."""
    text = Path("conf/base/parameters_models.yml").read_text(encoding="utf-8")
    plain_yaml = text.replace("${project_path:", "").replace("base}", "base")
    profiles = ModelProfiles.model_validate(yaml.safe_load(plain_yaml)["models"])
    return resolve_profile(profiles, name)
