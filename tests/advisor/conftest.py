from pathlib import Path

import pytest
from tests.builders.advised_repository import advisor_parameters, build_advised_repository

from the_block_llm.advisor.advisor import Advisor


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run; tests that modify it build their own."""
    return build_advised_repository(tmp_path_factory.mktemp("advised"))


@pytest.fixture(scope="session")
def parameters(data: Path) -> dict:
    return advisor_parameters(data)


@pytest.fixture(scope="session")
def advisor(parameters: dict) -> Advisor:
    return Advisor(parameters)
