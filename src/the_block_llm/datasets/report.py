"""Reports: a JSON file or a page, written whole or not at all."""

import json
from typing import Any

from kedro.io import AbstractDataset
from kedro_datasets._typing import HTMLPreview, JSONPreview

from the_block_llm.datasets.object_store import resolve_location
from the_block_llm.datasets.parquet_table import write_text_atomically
from the_block_llm.datasets.report_files import read_report


class ReportDataset(AbstractDataset[Any, Any]):
    """A ``.json`` file of plain values, or any other file of text."""

    def __init__(
        self,
        *,
        filepath: str,
        credentials: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Describe the report.

        Args:
            filepath: The file, relative to the project or in an object store; ``.json`` holds
                JSON, others text.
            credentials: Of the store, for fsspec.
            metadata: For Kedro-Viz; not used here.
        """
        self._filepath = resolve_location(filepath, credentials)
        self.metadata = metadata

    def load(self) -> Any:
        return read_report(self._filepath)

    def save(self, data: Any) -> None:
        # NaN is not JSON, and a report that no other program can read is not a report.
        is_json = self._filepath.suffix == ".json"
        text = json.dumps(data, indent=2, allow_nan=False) + "\n" if is_json else str(data)
        write_text_atomically(self._filepath, text)

    def preview(self) -> JSONPreview:
        """The report, for Kedro-Viz."""
        return JSONPreview(json.dumps(self.load()))

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath.as_posix()}


class PageDataset(ReportDataset):
    """A page of HTML. Kedro-Viz picks the form of a preview by the annotation of its method."""

    def preview(self) -> HTMLPreview:
        """The page, for Kedro-Viz."""
        return HTMLPreview(self.load())
