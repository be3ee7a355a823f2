"""Manifests of adapter folders; a folder without one is not an adapter.

Does not import torch, so listing adapters is fast.
"""

import json
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from the_block_llm.errors import AdapterError

MANIFEST_NAME: Final = "manifest.json"
WEIGHTS_NAME: Final = "adapter_model.safetensors"


class AdapterManifest(BaseModel, frozen=True, extra="forbid"):
    """Provenance of an adapter, and what decides whether it fits a base model."""

    format: int = 1
    profile: str
    base_model: str
    """Hub id of the model that the adapter was trained on, or the name of its folder or profile."""
    base_revision: str
    data_hashes: dict[str, str]
    """Hash of the rows of each training table, by table."""
    parameters: dict[str, Any]
    """All settings of the run (``TrainingJob``) but its paths, as JSON."""
    git_commit: str | None
    """HEAD commit of the repository that was trained on."""
    library_versions: dict[str, str]
    device: str
    peak_memory_gib: float
    metrics: dict[str, Any]
    created_at: str


class AdapterFolder(BaseModel, frozen=True):
    """A complete adapter on disk."""

    path: Path
    manifest: AdapterManifest

    @property
    def added_tokens(self) -> dict[str, int]:
        """Ids by token of the tokens that were added to the base model's vocabulary."""
        return dict(self.manifest.parameters.get("added_tokens", {}))


def open_adapter(path: Path) -> AdapterFolder:
    """Read the adapter in ``path``.

    Raises:
        AdapterError: The folder is incomplete or its manifest cannot be read.
    """
    if not (path / WEIGHTS_NAME).is_file() or not (path / MANIFEST_NAME).is_file():
        raise AdapterError(
            f"{path} is not a complete adapter: it lacks {WEIGHTS_NAME} or {MANIFEST_NAME}. "
            "Train one with `kedro run --pipeline=qlora_train`."
        )
    try:
        manifest = AdapterManifest.model_validate(
            json.loads((path / MANIFEST_NAME).read_text(encoding="utf-8"))
        )
    except (OSError, ValueError, ValidationError) as error:
        raise AdapterError(f"The manifest of the adapter {path} cannot be read: {error}") from error
    return AdapterFolder(path=path, manifest=manifest)


def list_adapters(folder: Path) -> list[AdapterFolder]:
    """List the complete adapters in ``folder``, oldest first; incomplete ones are skipped."""
    adapters: list[AdapterFolder] = []
    for path in sorted(folder.glob("*/")) if folder.is_dir() else []:
        if (path / MANIFEST_NAME).is_file() and not path.name.startswith("."):
            try:
                adapters.append(open_adapter(path))
            except AdapterError:
                continue
    return adapters
