"""What a training run computes and where it works, as one value that can be written down."""

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel

from the_block_llm.datasets.parts import MANIFEST_NAME
from the_block_llm.models.profiles import ModelProfile, TrainingValues


class TrainingJob(BaseModel, frozen=True, extra="forbid"):
    """Everything that decides what a run computes, and where it works."""

    profile: ModelProfile
    values: TrainingValues
    force_epochs: int | None
    max_steps: int | None
    train_folder: Path
    validation_folder: Path
    work_folder: Path
    git_commit: str | None

    def data_hashes(self) -> dict[str, str]:
        """By table, the hash of the manifest that names its parts."""
        return {
            name: hashlib.sha256((folder / MANIFEST_NAME).read_bytes()).hexdigest()
            for name, folder in (
                ("train", self.train_folder),
                ("validation", self.validation_folder),
            )
        }

    def fingerprint(self) -> str:
        """Equal for two jobs that compute the same; a killed run is found again by it."""
        decisive = self.model_dump(mode="json", exclude={"work_folder", "git_commit"})
        text = json.dumps([decisive, self.data_hashes()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
