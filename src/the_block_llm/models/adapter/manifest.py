"""What an adapter folder says about itself; a folder without it is not an adapter.

No torch here: listing adapters must be quick.
"""

import json
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from the_block_llm.errors import AdapterError

MANIFEST_NAME: Final = "manifest.json"
WEIGHTS_NAME: Final = "adapter_model.safetensors"


class AdapterManifest(BaseModel, frozen=True, extra="forbid"):
    """Everything needed to say what an adapter is and whether it fits a model."""

    format: int = 1
    profile: str
    base_model: str
    """Folder or Hub id that the adapter was trained over."""
    base_revision: str
    data_hashes: dict[str, str]
    """By table, the hash of the manifest that named its parts."""
    parameters: dict[str, Any]
    """The profile and the run's overrides, as they were in force."""
    git_commit: str | None
    """Head of the repository that was learned."""
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
        """Ids of the tokens that it was trained with and its base does not have."""
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
    except (ValueError, ValidationError) as error:
        raise AdapterError(f"The manifest of the adapter {path} cannot be read: {error}") from error
    return AdapterFolder(path=path, manifest=manifest)


def list_adapters(folder: Path) -> list[AdapterFolder]:
    """The complete adapters under ``folder``, oldest first; incomplete ones are passed over."""
    found: list[AdapterFolder] = []
    for path in sorted(folder.glob("*/")) if folder.is_dir() else []:
        if (path / MANIFEST_NAME).is_file() and not path.name.startswith("."):
            try:
                found.append(open_adapter(path))
            except AdapterError:
                continue
    return found
