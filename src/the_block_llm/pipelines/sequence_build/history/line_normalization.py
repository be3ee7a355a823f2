"""Line-level comparison of texts from different splits.

A file is older than the validation and held-out commits, but its text contains the lines that they
added. Splits are therefore assigned by line: a line that an evaluation commit added is context in
training and never a target, and only the new lines of a file changed after the cutoff are
held-out targets.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from the_block_llm.pipelines.sequence_build.document import Segment

_MIN_CHARACTERS = 4  # shorter lines ("}", "else") occur everywhere
_STRIPPED = " \t\n\r\f\v/#*!\"'"  # so that a sentence equals itself inside a comment


def normalize_line(line: str) -> str | None:
    """Strip white space and comment markers; return ``None`` for a line too short to compare."""
    stripped = line.strip(_STRIPPED)
    return stripped if len(stripped) >= _MIN_CHARACTERS else None


def significant_lines(text: str) -> frozenset[str]:
    """Return the normalized lines of a text that are long enough to compare."""
    return frozenset(
        normalized for line in text.splitlines() if (normalized := normalize_line(line)) is not None
    )


def segment_by_line(text: str, is_target: Callable[[str], bool]) -> tuple[Segment, ...]:
    r"""Split a text into target and context segments, line by line.

    A line that is too short to compare joins the segment of the line before it, which avoids
    fragmentation.

    Args:
        text: Any text; the concatenated segments equal it.
        is_target: Predicate on a normalized line.

    >>> [s.text for s in segment_by_line("alpha\n}\nbravo\n", "bravo".__eq__) if s.train]
    ['bravo\n']
    """

    def label(line: str) -> bool | None:
        normalized = normalize_line(line)
        return None if normalized is None else is_target(normalized)

    return segment_lines(text, label)


def segment_lines(text: str, label: Callable[[str], bool | None]) -> tuple[Segment, ...]:
    """Split a text into segments of lines with the same label.

    Args:
        text: Any text; the concatenated segments equal it.
        label: Whether a line is a target; None if it joins the lines before it.
    """
    labeled = _label_lines(text.splitlines(keepends=True), label)
    return tuple(
        Segment("".join(line for line, _ in run), train)
        for train, run in groupby(labeled, key=lambda pair: pair[1])
    )


def _label_lines(
    lines: Iterable[str], label_of: Callable[[str], bool | None]
) -> Iterator[tuple[str, bool]]:
    unlabeled: list[str] = []
    label: bool | None = None
    for line in lines:
        new_label = label_of(line)
        if new_label is not None:
            label = new_label
            # Short lines at the beginning get the label of the first significant line.
            yield from ((earlier, label) for earlier in unlabeled)
            unlabeled = []
        if label is None:
            unlabeled.append(line)
        else:
            yield line, label
    yield from ((earlier, False) for earlier in unlabeled)
