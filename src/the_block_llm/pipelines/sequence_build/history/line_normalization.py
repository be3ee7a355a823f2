"""Which lines of a file came in with which side of the cut-off.

A file is older than the commits that are held back from training, yet its text holds what
they added. So the unit is the line: one that a validation commit added is shown in training
but never learned, and of a file that was changed after the cut-off only its new lines count
as held out.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from the_block_llm.pipelines.sequence_build.document import Segment

_TELLING_CHARACTERS = 4  # a shorter line ("}", "else") stands everywhere and tells nothing
_DRESS = " \t\n\r\f\v/#*!\"'"  # a sentence is the same with and without its comment marks


def telling(line: str) -> str | None:
    """The line as it is compared, or none where it says too little to be told apart."""
    bare = line.strip(_DRESS)
    return bare if len(bare) >= _TELLING_CHARACTERS else None


def lines_of(text: str) -> frozenset[str]:
    """The telling lines of a text."""
    return frozenset(bare for line in text.splitlines() if (bare := telling(line)) is not None)


def added_lines(patch: str) -> frozenset[str]:
    """The telling lines that a patch, hunks only, brings in."""
    return lines_of("\n".join(line[1:] for line in patch.split("\n") if line.startswith("+")))


def split_by_line(text: str, is_target: Callable[[str], bool]) -> tuple[Segment, ...]:
    r"""Cut a text into segments that are learned and segments that are shown only.

    A line that tells nothing goes with the one before it, so that a text does not fall into
    splinters.

    Args:
        text: Any text; the segments put together give it back.
        is_target: Says of a telling line, bare, whether it is learned.

    >>> [s.text for s in split_by_line("alpha\n}\nbravo\n", "bravo".__eq__) if s.train]
    ['bravo\n']
    """
    flagged = _flagged(text.splitlines(keepends=True), is_target)
    return tuple(
        Segment("".join(line for line, _ in run), train)
        for train, run in groupby(flagged, key=lambda pair: pair[1])
    )


def _flagged(lines: Iterable[str], is_target: Callable[[str], bool]) -> Iterator[tuple[str, bool]]:
    undecided: list[str] = []
    flag: bool | None = None
    for line in lines:
        bare = telling(line)
        if bare is not None:
            flag = is_target(bare)
            # What stands before the first telling line goes with it.
            yield from ((waiting, flag) for waiting in undecided)
            undecided = []
        if flag is None:
            undecided.append(line)
        else:
            yield line, flag
    yield from ((waiting, False) for waiting in undecided)
