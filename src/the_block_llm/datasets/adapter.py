"""Kedro dataset of the trained adapters of one profile: a folder of versions."""

from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io import AbstractDataset
from kedro_datasets._typing import JSONPreview

from the_block_llm.errors import AdapterError, StorageError
from the_block_llm.files.durable_files import sync_folder
from the_block_llm.models.adapter.manifest import AdapterFolder, newest_adapter, open_adapter
from the_block_llm.os_errors import explain


class AdapterDataset(AbstractDataset[Path, AdapterFolder]):
    """Saves an adapter folder as a new version; loads one version, by default the newest.

    A version is added by an atomic rename, complete with its manifest. No version is deleted.
    """

    def __init__(
        self, *, filepath: str, version: str | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        """Initialize the dataset.

        Args:
            filepath: Folder of the profile's adapters, relative to the project.
            version: Version to load; by default the newest.
            metadata: Metadata for Kedro-Viz.
        """
        self._folder = Path(PurePosixPath(filepath))
        self._filepath = self._folder  # attribute that Kedro-Viz displays
        # Not ``_version``, which Kedro uses for its own versioning.
        self._selected_version = version
        self.metadata = metadata

    def load(self) -> AdapterFolder:
        return self._open()

    def _open(self) -> AdapterFolder:
        if self._selected_version is not None:
            return open_adapter(self._folder / self._selected_version)
        newest = newest_adapter(self._folder)
        if newest is None:
            raise AdapterError(
                f"There is no trained adapter in {self._folder}. Train one with "
                "`kedro run --pipeline=qlora_train`."
            )
        return newest

    def save(self, data: Path) -> None:
        """Move the complete adapter folder ``data`` to a new version."""
        open_adapter(data)
        version = datetime.now(UTC).strftime("%Y-%m-%dT%H.%M.%S.%fZ")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            data.rename(self._folder / version)
            sync_folder(self._folder)
        except OSError as error:
            raise StorageError(
                f"The trained adapter could not be moved from {data} to {self._folder}: "
                f"{explain(error)} The adapter is complete: run again, or move the folder."
            ) from error

    def preview(self) -> JSONPreview:
        """Return the manifest of the version that :meth:`load` returns."""
        return JSONPreview(self.load().manifest.model_dump_json())

    def _exists(self) -> bool:
        try:
            self._open()
        except AdapterError:
            return False
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._folder.as_posix(), "version": self._selected_version or "newest"}
