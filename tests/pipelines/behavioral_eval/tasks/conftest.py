import pytest
from tests.pipelines.behavioral_eval import toy_history

from the_block_llm.pipelines.behavioral_eval.tasks.history_split import (
    HistorySplit,
    read_history_split,
)


@pytest.fixture(scope="session")
def history(tmp_path_factory) -> HistorySplit:
    tables = toy_history.tables(tmp_path_factory.mktemp("tables"))
    return read_history_split(toy_history.CUTOFF, **tables)
