from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.builders.damage import damaged

from the_block_llm.datasets.cutoff import Cutoff, read_cutoff
from the_block_llm.errors import StaleDataError
from the_block_llm.pipelines.sequence_build.history.commits import require_cutoff

REPOSITORY: dict[str, Any] = {
    "head": "b" * 40,
    "cutoff": {"spec": 0.85, "sha": "a" * 40, "time": "2026-01-01T00:00:00+00:00"},
}


def test_the_cutoff_is_read() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert read_cutoff(REPOSITORY) == Cutoff("a" * 40, at, "b" * 40)


def test_a_repository_of_another_version_is_an_error_with_a_remedy() -> None:
    with pytest.raises(StaleDataError, match="The dataset repository .*'cutoff'.*git_ingest"):
        read_cutoff({"head": "b"})
    for stored in damaged(REPOSITORY):
        with suppress(StaleDataError):
            read_cutoff(stored)
        with suppress(StaleDataError):
            require_cutoff(stored, 0.85)
