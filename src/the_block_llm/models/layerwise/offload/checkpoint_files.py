"""Reads single tensors of a safetensors checkpoint."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open

from the_block_llm.errors import ModelUnavailableError
from the_block_llm.models.base.hub import hub_revision
from the_block_llm.models.base.sources import call_with_loading_errors
from the_block_llm.models.profiles import ModelProfile


class CheckpointFiles:
    """The safetensors files of a model; each tensor is read on request."""

    def __init__(self, folder: Path) -> None:
        """Index the tensors in ``folder``.

        Raises:
            ModelUnavailableError: It contains no safetensors.
        """
        self.folder = folder
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            self._weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))[
                "weight_map"
            ]
        else:
            self._weight_map = {
                name: file.name for file in sorted(folder.glob("*.safetensors"))
                for name in self._open(file.name).keys()  # noqa: SIM118 - not a mapping
            }  # fmt: skip
        if not self._weight_map:
            raise ModelUnavailableError(
                f"{folder} contains no *.safetensors. Save the model with save_pretrained."
            )

    def __contains__(self, name: str) -> bool:
        """Return whether the checkpoint has a tensor ``name``."""
        return name in self._weight_map

    def read(self, name: str) -> torch.Tensor:
        """Read a tensor into host memory, in its stored dtype.

        Raises:
            ModelUnavailableError: The checkpoint has no such tensor.
        """
        if name not in self._weight_map:
            raise ModelUnavailableError(f"The weights in {self.folder} lack {name}.")
        # Opened again for each tensor: pages of an open mapping count as this process's memory.
        tensor: torch.Tensor = self._open(self._weight_map[name]).get_tensor(name)
        return tensor

    def fingerprint(self) -> list[list[Any]]:
        """Return names, sizes and modification times of the files, a key for derived caches."""
        names = sorted(set(self._weight_map.values()))
        stats = [(self.folder / name).stat() for name in names]
        return [
            [name, stat.st_size, stat.st_mtime_ns] for name, stat in zip(names, stats, strict=True)
        ]

    def _open(self, file_name: str) -> Any:
        return safe_open(str(self.folder / file_name), framework="pt", device="cpu")


def open_checkpoint(profile: ModelProfile, location: str) -> CheckpointFiles:
    """Open the weights at ``location``, a folder or a Hub id, downloading the latter if needed."""
    folder = Path(location)
    if not folder.is_dir():
        folder = Path(
            call_with_loading_errors(
                profile,
                lambda: snapshot_download(
                    location,
                    revision=hub_revision(profile),
                    allow_patterns=["*.safetensors", "*.json"],
                ),
            )
        )
    return CheckpointFiles(folder)
