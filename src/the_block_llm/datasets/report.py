"""Kedro datasets of reports: JSON files and HTML pages, written atomically."""

import json
from typing import Any

from kedro.io import AbstractDataset
from kedro_datasets._typing import HTMLPreview, JSONPreview

from the_block_llm.datasets.object_store import resolve_location
from the_block_llm.datasets.parquet_table import write_text_atomically
from the_block_llm.datasets.report_files import read_report


class ReportDataset(AbstractDataset[Any, Any]):
    """A ``.json`` file, or any other text file."""

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
                ``.json``, else text.
            credentials: fsspec options of the object store.
            metadata: Metadata for Kedro-Viz.
        """
        self._filepath = resolve_location(filepath, credentials)
        self.metadata = metadata

    def load(self) -> Any:
        return read_report(self._filepath)

    def save(self, data: Any) -> None:
        # NaN is not valid JSON; other programs could not read the report.
        is_json = self._filepath.suffix == ".json"
        text = json.dumps(data, indent=2, allow_nan=False) + "\n" if is_json else str(data)
        write_text_atomically(self._filepath, text)

    def preview(self) -> JSONPreview:
        """Return the report for Kedro-Viz."""
        return JSONPreview(json.dumps(self.load()))

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath.as_posix()}


class PageDataset(ReportDataset):
    """An HTML page. Kedro-Viz selects the preview type by the return annotation of the method."""

    def preview(self) -> HTMLPreview:
        """Return the page for Kedro-Viz."""
        return HTMLPreview(self.load())
