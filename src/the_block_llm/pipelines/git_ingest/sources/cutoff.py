"""The cut-off T0 between training and held-out commits."""

import datetime as dt
import math
from array import array

from the_block_llm.errors import ParameterError

CutoffSpec = float | int | str | dt.date | None
"""The parameter ``sequence_build.cutoff``."""


def cutoff_time(times: "array[int]", cutoff: CutoffSpec) -> int:
    """Return the time T0; commits at or before it belong to training.

    Args:
        times: Commit times in seconds since 1970, ascending.
        cutoff: A fraction of the commits between 0 and 1, a date (its last second counts, in
            UTC) or time in ISO format, or None for all commits.

    Returns:
        Seconds since 1970.

    Raises:
        ParameterError: The cut-off is malformed, or before the first commit.

    >>> cutoff_time(array("q", [10, 20, 30, 40]), 0.5)
    20
    """
    if cutoff is None:
        return times[-1]
    if isinstance(cutoff, int | float) and not isinstance(cutoff, bool):
        if not 0 < cutoff < 1:
            raise ParameterError(
                f"sequence_build.cutoff={cutoff} is not between 0 and 1. Set a fraction of the "
                "commits, an ISO date, or null to train on everything."
            )
        return times[max(1, math.floor(cutoff * len(times))) - 1]
    time = _parse_time_s(cutoff)
    if time < times[0]:
        first = dt.datetime.fromtimestamp(times[0], dt.UTC).date()
        raise ParameterError(
            f"sequence_build.cutoff={cutoff} is before the first commit ({first}). Set a later "
            "date."
        )
    return time


def _parse_time_s(cutoff: object) -> int:
    text = str(cutoff).strip()
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ParameterError(
            f"sequence_build.cutoff={cutoff!r} is neither a fraction nor an ISO date such as "
            "2025-06-30."
        ) from None
    if len(text) == len("2025-06-30"):
        time += dt.timedelta(days=1, seconds=-1)
    if time.tzinfo is None:
        time = time.replace(tzinfo=dt.UTC)
    return int(time.timestamp())
