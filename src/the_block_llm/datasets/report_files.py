"""Read and write reports on a file system or in an object store, without Kedro.

A report carries its own checksum, as the last key of a JSON file and as a comment at the end of an
HTML page, so a number that changed on disk is noticed when it is read.
"""

import re
from typing import Any, Final

from the_block_llm.datasets.object_store import StorageLocation
from the_block_llm.datasets.parquet_table import write_text_atomically
from the_block_llm.errors import TableError
from the_block_llm.files.checksums import checksum, json_with_checksum, parse_json_with_checksum
from the_block_llm.os_errors import explain

_PAGE_CHECKSUM: Final = re.compile(r"<!-- checksum (\w{8}) -->\n\Z")


def read_report(path: StorageLocation) -> Any:
    """Return the content of a report: parsed if it is a ``.json`` file, else as text.

    Raises:
        TableError: The report is missing or damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return parse_json_with_checksum(text) if path.suffix == ".json" else _parse_page(text)
    except FileNotFoundError:
        raise TableError(
            f"There is no {path} yet. Run the pipeline that writes it; `kedro run` runs them all "
            "in order."
        ) from None
    except OSError as error:
        raise TableError(f"{path} cannot be read: {explain(error)} Then run again.") from error
    except ValueError as error:
        raise TableError(
            f"{path} cannot be read ({error}). Run the pipeline that writes it again."
        ) from error


def write_report(path: StorageLocation, content: Any) -> None:
    """Write a report atomically: as JSON if ``path`` ends in ``.json``, else as an HTML page.

    Raises:
        StorageError: The folder cannot be written.
    """
    if path.suffix == ".json":
        text = json_with_checksum(content, indent=2) + "\n"
    else:
        page = str(content)
        text = f"{page}<!-- checksum {checksum(page.encode())} -->\n"
    write_text_atomically(path, text)


def _parse_page(text: str) -> str:
    match = _PAGE_CHECKSUM.search(text)
    if match is None:
        raise ValueError("it has no checksum")
    page = text[: match.start()]
    if checksum(page.encode()) != match[1]:
        raise ValueError("its content does not match its checksum")
    return page
