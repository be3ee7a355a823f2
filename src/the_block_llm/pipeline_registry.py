"""Registers the pipelines: four run in order by default, and export on request."""

from kedro.pipeline import Pipeline

from the_block_llm.pipelines.behavioral_eval.pipeline import create_pipeline as behavioral_eval
from the_block_llm.pipelines.export.pipeline import create_pipeline as export
from the_block_llm.pipelines.git_ingest.pipeline import create_pipeline as git_ingest
from the_block_llm.pipelines.qlora_train.pipeline import create_pipeline as qlora_train
from the_block_llm.pipelines.sequence_build.pipeline import create_pipeline as sequence_build


def register_pipelines() -> dict[str, Pipeline]:
    """Return the pipelines by their name in ``kedro run --pipeline=NAME``."""
    pipelines = {
        "git_ingest": git_ingest(),
        "sequence_build": sequence_build(),
        "qlora_train": qlora_train(),
        "behavioral_eval": behavioral_eval(),
    }
    default = sum(pipelines.values(), start=Pipeline([]))
    return {**pipelines, "export": export(), "__default__": default}
