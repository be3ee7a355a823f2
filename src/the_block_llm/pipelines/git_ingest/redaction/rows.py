"""Redaction of rows, a batch at a time, with the places noted in the tally."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from the_block_llm.pipelines.git_ingest.redaction.pseudonyms import AuthorNaming
from the_block_llm.pipelines.git_ingest.redaction.redactor import EMAIL_KIND, Redacted, Redactor
from the_block_llm.pipelines.git_ingest.sharding.counts import Tally
from the_block_llm.pipelines.git_ingest.sharding.record_batches import Row

_HUNK: Final = re.compile(r"^@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")
_TRAILER: Final = re.compile(r"^([A-Z][A-Za-z-]+-[Bb]y: )(.+?) <([^<>\s]+@[^<>\s]+)>", re.MULTILINE)


@dataclass(frozen=True)
class RowRedaction:
    """Masks the columns of a table that hold text."""

    redactor: Redactor
    tally: Tally

    def text(self, rows: list[Row], *, sha: int, path: int, text: int, count: int) -> list[Row]:
        """Mask the column ``text`` of each row and count the marks in the column ``count``.

        Args:
            rows: Of one batch.
            sha: Index of the column with the commit.
            path: Index of the column with the path, which says how strictly to read.
            text: Index of the column with the text; None where nothing was kept.
            count: Index of the column with the number of marks that stand for secrets.
        """
        held = [i for i, row in enumerate(rows) if row[text] is not None]
        found = self.redactor.redact([rows[i][text] for i in held], [rows[i][path] for i in held])
        for index, redacted in found.items():
            row = list(rows[held[index]])
            original = row[text]
            row[text] = redacted.text
            row[count] = self._note(redacted, row[sha], row[path], original)
            rows[held[index]] = tuple(row)
        return rows

    def short(self, rows: list[Row], *, sha: int | None, columns: Sequence[int]) -> list[Row]:
        """Mask columns such as paths and messages, which have no count of their own."""
        # In one go: making the automaton costs more than running it over short texts.
        held = [(i, c) for i, row in enumerate(rows) for c in columns if row[c]]
        found = self.redactor.redact([rows[i][c] for i, c in held], [""] * len(held))
        for index, redacted in found.items():
            number, column = held[index]
            row = list(rows[number])
            row[column] = redacted.text
            self._note(redacted, "" if sha is None else row[sha], "", None)
            rows[number] = tuple(row)
        return rows

    def tallied_paths(self) -> None:
        """Mask the paths that the tally names, once it counts no more rows."""
        tally = self.tally
        paths = [path for _, path in tally.largest] + [m["path"] for m in tally.missing]
        found = self.redactor.redact(paths, [""] * len(paths))
        masked = {paths[i]: redacted.text for i, redacted in found.items()}
        tally.largest = [(n_bytes, masked.get(path, path)) for n_bytes, path in tally.largest]
        tally.missing = [{**m, "path": masked.get(m["path"], m["path"])} for m in tally.missing]

    def _note(self, redacted: Redacted, sha: str, path: str, patch: Any) -> int:
        n_secrets = 0
        for finding in redacted.findings:
            self.tally.redactions[finding.kind] += 1
            if finding.kind == EMAIL_KIND:
                continue
            n_secrets += 1
            line = finding.line if patch is None else line_in_file(patch, finding.line)
            self.tally.note_finding(
                {"sha": sha, "path": path or None, "line": line, "kind": finding.kind}
            )
        return n_secrets


def line_in_file(patch: str | bytes, number: int) -> int:
    """Return the line of the file that line ``number`` of ``patch`` shows, both from 1.

    A removed line counts as in the old file. A text without hunks is the file itself.
    """
    text = patch.decode("utf-8", "replace") if isinstance(patch, bytes) else patch
    old = new = None
    at = number
    for line in text.split("\n", number)[:number]:
        header = _HUNK.match(line)
        if header is not None:
            old, new = int(header[1]), int(header[2])
            at = new
        elif old is not None and new is not None:
            at = old if line.startswith("-") else new
            old += line[:1] in ("-", " ")
            new += line[:1] in ("+", " ")
    return at


def without_names(message: str, naming: AuthorNaming) -> str:
    """Put author ids in the place of people in trailers such as ``Co-authored-by``."""
    if naming.key is None or "-" not in message:
        return message
    return _TRAILER.sub(lambda m: m[1] + naming.author_id(m[2], m[3]), message)
