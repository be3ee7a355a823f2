from collections import Counter
from contextlib import suppress

import pytest
from tests.builders.damage import damaged, without_one_key

from the_block_llm.errors import StaleDataError
from the_block_llm.pipelines.sequence_build.dedup.near_duplicates import Leak
from the_block_llm.pipelines.sequence_build.dedup.screening import Screening

SCREENING = Screening(
    leaks=(Leak("chat/why/1", "c0ffee", "held_out", "known_lines", "commit/beef", 0.8),),
    duplicates={"train": {"file/b.py": "file/a.py"}, "validation": {}, "held_out": {}},
    dropped=dict(Counter(fixture=3)),
    validation_repeats=False,
)


def test_a_screening_is_read_as_it_was_written() -> None:
    assert Screening.from_json(SCREENING.to_json()) == SCREENING


def test_a_screening_of_another_version_is_an_error_with_a_remedy() -> None:
    stored = SCREENING.to_json()
    for key, stale in without_one_key(stored):
        with pytest.raises(StaleDataError, match=f"KeyError: '{key}'.*kedro run"):
            Screening.from_json(stale)
    old_leak = {**stored["leaks"][0], "removed_field": 1}
    with pytest.raises(StaleDataError, match="another version"):
        Screening.from_json({**stored, "leaks": [old_leak]})


def test_no_damage_gives_another_error() -> None:
    for stored in damaged(SCREENING.to_json()):
        with suppress(StaleDataError):
            Screening.from_json(stored)
