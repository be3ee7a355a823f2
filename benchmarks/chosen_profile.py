"""A profile of the project's parameters, read without Kedro and without torch."""

from pathlib import Path

import yaml

from the_block_llm.models.profiles import ModelProfile, ModelProfiles, resolve_profile


def chosen_profile(name: str) -> ModelProfile:
    """The profile of that name, or of a folder with a model."""
    text = Path("conf/base/parameters_models.yml").read_text(encoding="utf-8")
    for_files = text.replace("${project_path:", "").replace("base}", "base")
    profiles = ModelProfiles.model_validate(yaml.safe_load(for_files)["models"])
    return resolve_profile(profiles, name)
