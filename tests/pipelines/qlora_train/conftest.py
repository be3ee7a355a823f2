from pathlib import Path

import pytest
from tests.builders.tiny_llama import save_tiny_llama
from tests.pipelines.qlora_train.jobs import make_job

from the_block_llm.pipelines.qlora_train.job import TrainingJob


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture
def job(base: Path, tmp_path: Path) -> TrainingJob:
    return make_job(base, tmp_path)
