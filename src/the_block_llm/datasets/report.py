"""Kedro datasets of reports: JSON files, HTML pages and plots, written atomically."""

import base64
import io
import json
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import HTMLPreview, ImagePreview, JSONPreview

from the_block_llm.datasets.object_store import StorePath, resolve_location
from the_block_llm.datasets.report_files import read_report, write_report
from the_block_llm.errors import TableError
from the_block_llm.files.durable_files import write_durably


class ReportDataset(AbstractDataset[Any, Any]):
    """A ``.json`` file, or an HTML page."""

    def __init__(
        self,
        *,
        filepath: str,
        credentials: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Initialize the dataset.

        Args:
            filepath: File relative to the project or in an object store; JSON if it ends in
                ``.json``, else an HTML page.
            credentials: fsspec options of the object store.
            metadata: Metadata for Kedro-Viz.
        """
        self._filepath = resolve_location(filepath, credentials)
        self.metadata = metadata

    def load(self) -> Any:
        return read_report(self._filepath)

    def save(self, data: Any) -> None:
        write_report(self._filepath, data)

    def preview(self) -> JSONPreview:
        """Return the report for Kedro-Viz."""
        return JSONPreview(json.dumps(self.load()))

    def _exists(self) -> bool:
        try:
            read_report(self._filepath)
        except TableError:
            return False
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath.as_posix()}


class PageDataset(ReportDataset):
    """An HTML page. Kedro-Viz selects the preview type by the return annotation of the method."""

    def preview(self) -> HTMLPreview:
        """Return the page for Kedro-Viz."""
        return HTMLPreview(self.load())


class PlotDataset(AbstractDataset[Any, NoReturn]):
    """A matplotlib figure as a PNG file, which cannot be loaded again."""

    def __init__(
        self,
        *,
        filepath: str,
        dpi: int = 144,
        credentials: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Initialize the dataset.

        Args:
            filepath: File relative to the project or in an object store.
            dpi: Resolution in dots per inch.
            credentials: fsspec options of the object store.
            metadata: Metadata for Kedro-Viz.
        """
        self._filepath = resolve_location(filepath, credentials)
        self._dpi = dpi
        self.metadata = metadata

    def load(self) -> NoReturn:
        raise DatasetError(f"{self._filepath} is a picture; it is written and not loaded.")

    def save(self, data: Any) -> None:
        # Imported here, since listing pipelines should not wait for matplotlib.
        from matplotlib import pyplot  # noqa: PLC0415

        png = io.BytesIO()
        data.savefig(png, format="png", dpi=self._dpi)
        pyplot.close(data)
        if isinstance(self._filepath, StorePath):
            self._filepath.put_bytes(png.getvalue())
        else:
            write_durably(self._filepath, png.getvalue())

    def preview(self) -> ImagePreview:
        """Return the picture for Kedro-Viz."""
        return ImagePreview(base64.b64encode(self._filepath.read_bytes()).decode())

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath.as_posix()}
