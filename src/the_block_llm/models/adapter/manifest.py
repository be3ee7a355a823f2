"""Manifests of adapter folders; a folder without one is not an adapter.

The manifest has size and checksum of every other file, so a damaged adapter is not loaded. Does not
import torch, so listing adapters is fast.
"""

import json
import logging
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from the_block_llm.errors import AdapterError
from the_block_llm.files.checksums import (
    describe_files,
    find_damage,
    json_with_checksum,
    parse_json_with_checksum,
)
from the_block_llm.files.durable_files import write_durably

_log = logging.getLogger(__name__)
MANIFEST_NAME: Final = "manifest.json"
WEIGHTS_NAME: Final = "adapter_model.safetensors"
_CONFIG_NAME: Final = "adapter_config.json"
# The model card may be edited.
_NOT_DESCRIBED: Final = (MANIFEST_NAME, "README.md")
_REMEDY: Final = (
    "Restore it from a copy, or delete the folder: the version before it is used then, and "
    "`kedro run --pipeline=qlora_train` trains a new one."
)


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
    files: dict[str, dict[str, Any]] = {}
    """Size and checksum of each file of the adapter; empty if an earlier version wrote it."""


class AdapterFolder(BaseModel, frozen=True):
    """A complete adapter on disk."""

    path: Path
    manifest: AdapterManifest

    @property
    def added_tokens(self) -> dict[str, int]:
        """Ids by token of the tokens that were added to the base model's vocabulary."""
        return dict(self.manifest.parameters.get("added_tokens", {}))


def write_manifest(folder: Path, manifest: AdapterManifest) -> None:
    """Complete the adapter in ``folder`` by its manifest, which describes its other files.

    Raises:
        StorageError: The folder cannot be written.
    """
    paths = [p for p in folder.iterdir() if p.is_file() and p.name not in _NOT_DESCRIBED]
    manifest = manifest.model_copy(update={"files": describe_files(paths)})
    text = json_with_checksum(manifest.model_dump(mode="json"), indent=2)
    write_durably(folder / MANIFEST_NAME, text)


def open_adapter(path: Path, sizes_only: bool = False) -> AdapterFolder:
    """Read the adapter in ``path``.

    Args:
        path: The folder.
        sizes_only: Do not read the weights to compare their checksum.

    Raises:
        AdapterError: The folder is incomplete or damaged, or its manifest cannot be read.
    """
    if not (path / WEIGHTS_NAME).is_file() or not (path / MANIFEST_NAME).is_file():
        raise AdapterError(
            f"{path} is not a complete adapter: it lacks {WEIGHTS_NAME} or {MANIFEST_NAME}. "
            f"{_REMEDY}"
        )
    try:
        manifest = _parse_manifest((path / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = "it is not valid" if isinstance(error, ValidationError) else error
        raise AdapterError(
            f"The manifest of the adapter {path} cannot be read ({reason}). {_REMEDY}"
        ) from error
    if damage := find_damage(path, manifest.files, sizes_only):
        raise AdapterError(f"The adapter {path} is damaged: {damage}. {_REMEDY}")
    return AdapterFolder(path=path, manifest=manifest)


def list_adapters(folder: Path) -> list[AdapterFolder]:
    """List the complete adapters in ``folder``, oldest first; damaged ones are named in the log.

    Sizes are compared, not checksums, which :func:`open_adapter` does.
    """
    adapters: list[AdapterFolder] = []
    for path in _version_folders(folder):
        try:
            adapters.append(open_adapter(path, sizes_only=True))
        except AdapterError as error:
            _log.warning("%s", error, extra={"markup": False})
    return adapters


def newest_adapter(folder: Path) -> AdapterFolder | None:
    """Return the newest adapter in ``folder``; None if there is none.

    Raises:
        AdapterError: The newest adapter is damaged. The one before it is not taken instead, since
            it gives other answers.
    """
    paths = _version_folders(folder)
    return open_adapter(paths[-1]) if paths else None


def _version_folders(folder: Path) -> list[Path]:
    """Return the folders with at least one of the files of an adapter, by name."""
    names = (MANIFEST_NAME, WEIGHTS_NAME, _CONFIG_NAME)
    return [
        path
        for path in sorted(folder.glob("*/"))
        if not path.name.startswith(".") and any((path / name).is_file() for name in names)
    ]


def _parse_manifest(text: str) -> AdapterManifest:
    values = json.loads(text)
    # Adapters of earlier versions have no checksums; training them again may take days.
    if isinstance(values, dict) and not {"files", "checksum"} & values.keys():
        return AdapterManifest.model_validate(values)
    return AdapterManifest.model_validate(parse_json_with_checksum(text))
