"""Trained adapters of one profile: a folder of versions, newest last."""

from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io import AbstractDataset
from kedro_datasets._typing import JSONPreview

from the_block_llm.errors import AdapterError, StorageError
from the_block_llm.models.adapter.manifest import AdapterFolder, list_adapters, open_adapter


class AdapterDataset(AbstractDataset[Path, AdapterFolder]):
    """Saves a finished adapter folder as a new version; loads one version, by default the newest.

    A version appears by a single rename, complete with its manifest. Nothing is deleted.
    """

    def __init__(
        self, *, filepath: str, version: str | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        """Describe the adapters.

        Args:
            filepath: Folder of the profile's adapters, relative to the project.
            version: Which version to load; by default the newest.
            metadata: For Kedro-Viz; not used here.
        """
        self._folder = Path(PurePosixPath(filepath))
        self._filepath = self._folder  # by this name Kedro-Viz shows where it is
        # Not ``_version``: Kedro reads that name as its own versioning.
        self._chosen = version
        self.metadata = metadata

    def load(self) -> AdapterFolder:
        if self._chosen is not None:
            return open_adapter(self._folder / self._chosen)
        versions = list_adapters(self._folder)
        if not versions:
            raise AdapterError(
                f"There is no trained adapter in {self._folder}. Train one with "
                "`kedro run --pipeline=qlora_train`."
            )
        return versions[-1]

    def save(self, data: Path) -> None:
        """Move the complete adapter folder ``data`` into place as a new version."""
        open_adapter(data)
        version = datetime.now(UTC).strftime("%Y-%m-%dT%H.%M.%S.%fZ")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            data.rename(self._folder / version)
        except OSError as error:
            raise StorageError(
                f"The trained adapter could not be moved from {data} to {self._folder}: "
                f"{error.strerror}. It is complete where it is; move it there by hand."
            ) from error

    def preview(self) -> JSONPreview:
        """The manifest of the version that would be loaded."""
        return JSONPreview(self.load().manifest.model_dump_json())

    def _exists(self) -> bool:
        versions = [adapter.path.name for adapter in list_adapters(self._folder)]
        return bool(versions) if self._chosen is None else self._chosen in versions

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._folder.as_posix(), "version": self._chosen or "newest"}
