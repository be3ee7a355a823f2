"""Read reports from a file system or an object store, without Kedro."""

import json
from typing import Any

from the_block_llm.datasets.object_store import StorageLocation
from the_block_llm.errors import TableError


def read_report(path: StorageLocation) -> Any:
    """Return the content of a report: parsed if it is a ``.json`` file, else as text.

    Raises:
        TableError: The report is missing or damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else text
    except FileNotFoundError:
        raise TableError(
            f"There is no {path} yet. Run the pipeline that writes it; `kedro run` runs them all "
            "in order."
        ) from None
    except ValueError as error:
        raise TableError(
            f"{path} cannot be read ({error}). Run the pipeline that writes it again."
        ) from error
