"""Redacts rows of the tables in batches, and counts what was masked."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from the_block_llm.pipelines.git_ingest.redaction.allow_list import fingerprint
from the_block_llm.pipelines.git_ingest.redaction.email_addresses import EMAIL_KIND
from the_block_llm.pipelines.git_ingest.redaction.pseudonyms import Pseudonymizer
from the_block_llm.pipelines.git_ingest.redaction.redactor import Redacted, Redactor
from the_block_llm.pipelines.git_ingest.sharding.counts import RowCounts
from the_block_llm.pipelines.git_ingest.sharding.record_batches import Row

_HUNK: Final = re.compile(r"^@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")
_TRAILER: Final = re.compile(r"^([A-Z][A-Za-z-]+-[Bb]y: )(.+?) <([^<>\s]+@[^<>\s]+)>", re.MULTILINE)


@dataclass(frozen=True)
class RowRedactor:
    """Masks the text columns of a table."""

    redactor: Redactor
    counts: RowCounts

    def redact_text(
        self,
        rows: list[Row],
        *,
        sha_column: int,
        path_column: int,
        text_column: int,
        count_column: int,
    ) -> list[Row]:
        """Mask the text of each row and store the number of masked secrets in another column.

        Args:
            rows: Rows of one batch, changed in place.
            sha_column: Index of the commit's column.
            path_column: Index of the path's column; the path decides how strictly to search.
            text_column: Index of the text's column; None in dropped rows.
            count_column: Index of the column for the number of masked secrets.
        """
        indices = [i for i, row in enumerate(rows) if row[text_column] is not None]
        texts = [rows[i][text_column] for i in indices]
        changed = self.redactor.redact(texts, [rows[i][path_column] for i in indices])
        for index, redacted in changed.items():
            row = list(rows[indices[index]])
            original = row[text_column]
            row[text_column] = redacted.text
            row[count_column] = self._count(redacted, row[sha_column], row[path_column], original)
            rows[indices[index]] = tuple(row)
        return rows

    def redact_messages(
        self, rows: list[Row], *, sha_column: int, columns: Sequence[int]
    ) -> list[Row]:
        """Mask the parts of commit messages, which have no column for a count."""
        return self._redact_columns(rows, self.redactor.redact_messages, sha_column, columns)

    def redact_paths(
        self, rows: list[Row], *, sha_column: int | None, columns: Sequence[int]
    ) -> list[Row]:
        """Mask paths; different paths remain different."""
        return self._redact_columns(rows, self.redactor.redact_paths, sha_column, columns)

    def _redact_columns(
        self,
        rows: list[Row],
        redact: Callable[[Sequence[str]], dict[int, Redacted]],
        sha_column: int | None,
        columns: Sequence[int],
    ) -> list[Row]:
        # In one call: starting a search costs more than searching short texts.
        cells = [(i, c) for i, row in enumerate(rows) for c in columns if row[c]]
        changed = redact([rows[i][c] for i, c in cells])
        for index, redacted in changed.items():
            row_index, column = cells[index]
            row = list(rows[row_index])
            row[column] = redacted.text
            self._count(redacted, "" if sha_column is None else row[sha_column], "", None)
            rows[row_index] = tuple(row)
        return rows

    def redact_counted_paths(self) -> None:
        """Mask the paths in the counts; call it after the last row."""
        counts = self.counts
        paths = [path for _, path in counts.largest] + [m["path"] for m in counts.missing]
        changed = self.redactor.redact_paths(paths)
        masked = {paths[i]: redacted.text for i, redacted in changed.items()}
        counts.largest = [(n_bytes, masked.get(path, path)) for n_bytes, path in counts.largest]
        counts.missing = [{**m, "path": masked.get(m["path"], m["path"])} for m in counts.missing]

    def _count(self, redacted: Redacted, sha: str, path: str, patch: Any) -> int:
        n_secrets = 0
        for finding in redacted.findings:
            self.counts.redactions[finding.kind] += 1
            if finding.kind == EMAIL_KIND:
                continue
            n_secrets += 1
            line = finding.line if patch is None else file_line_number(patch, finding.line)
            self.counts.add_finding(
                {
                    "sha": sha,
                    "path": path or None,
                    "line": line,
                    "kind": finding.kind,
                    "fingerprint": fingerprint(finding.value),
                }
            )
        return n_secrets


def file_line_number(patch: str | bytes, line_number: int) -> int:
    """Return the line of the file for a line of ``patch``, both counted from 1.

    A removed line counts as in the old file. A text without hunks is the file itself.
    """
    text = patch.decode("utf-8", "replace") if isinstance(patch, bytes) else patch
    old = new = None
    file_line = line_number
    for line in text.split("\n", line_number)[:line_number]:
        header = _HUNK.match(line)
        if header is not None:
            old, new = int(header[1]), int(header[2])
            file_line = new
        elif old is not None and new is not None:
            file_line = old if line.startswith("-") else new
            old += line[:1] in ("-", " ")
            new += line[:1] in ("+", " ")
    return file_line


def pseudonymize_trailers(message: str, pseudonymizer: Pseudonymizer) -> str:
    """Replace people by author IDs in trailers such as ``Co-authored-by``."""
    if pseudonymizer.key is None or "-" not in message:
        return message
    return _TRAILER.sub(lambda m: m[1] + pseudonymizer.author_id(m[2], m[3]), message)
