"""Reading single tensors of a saved model, whichever of its files they are in."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open

from the_block_llm.errors import ModelUnavailableError
from the_block_llm.models.base.sources import from_pretrained, revision_of
from the_block_llm.models.profiles import ModelProfile


class CheckpointFiles:
    """The safetensors files of one model; a tensor is read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Open ``folder``.

        Raises:
            ModelUnavailableError: There are no safetensors in it.
        """
        self.folder = folder
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            self._file_of: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))[
                "weight_map"
            ]
        else:
            self._file_of = {
                name: file.name for file in sorted(folder.glob("*.safetensors"))
                for name in self._handle(file.name).keys()  # noqa: SIM118 - not a mapping
            }  # fmt: skip
        if not self._file_of:
            raise ModelUnavailableError(
                f"{folder} holds no *.safetensors. Save the model with save_pretrained."
            )

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._file_of

    def read(self, name: str) -> torch.Tensor:
        """The tensor in host memory, in the type it was saved in.

        Raises:
            ModelUnavailableError: There is none of that name.
        """
        if name not in self._file_of:
            raise ModelUnavailableError(f"The weights in {self.folder} lack {name}.")
        # Opened anew for each tensor: pages of a mapping that stays open count as ours.
        tensor: torch.Tensor = self._handle(self._file_of[name]).get_tensor(name)
        return tensor

    def stamp(self) -> list[list[Any]]:
        """Names, sizes and times of the files: what a copy made from them depends on."""
        names = sorted(set(self._file_of.values()))
        states = [(self.folder / name).stat() for name in names]
        return [
            [name, state.st_size, state.st_mtime_ns]
            for name, state in zip(names, states, strict=True)
        ]

    def _handle(self, file_name: str) -> Any:
        return safe_open(str(self.folder / file_name), framework="pt", device="cpu")


def open_checkpoint(profile: ModelProfile, location: str) -> CheckpointFiles:
    """Open the weights at ``location``, a folder or a Hub id, which is downloaded first."""
    folder = Path(location)
    if not folder.is_dir():
        folder = Path(
            from_pretrained(
                profile,
                lambda: snapshot_download(
                    location,
                    revision=revision_of(profile),
                    allow_patterns=["*.safetensors", "*.json"],
                ),
            )
        )
    return CheckpointFiles(folder)
