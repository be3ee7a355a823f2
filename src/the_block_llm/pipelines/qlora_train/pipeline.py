"""The pipeline ``qlora_train``."""

from typing import Final

from kedro.pipeline import Node, Pipeline

from the_block_llm.pipelines.qlora_train.nodes import check_training, draw_training, train_adapter

_JOB_INPUTS: Final = [
    "train_rows",
    "validation_rows",
    "repository",
    "params:models",
    "params:model",
    "params:qlora_train",
    "row_facts",
]


def create_pipeline() -> Pipeline:
    """Create the pipeline: from rows to an adapter, its metrics, sample answers and plots."""
    return Pipeline(
        [
            Node(
                check_training,
                inputs=_JOB_INPUTS,
                outputs="training_preflight",
                name="check_training",
                tags=["model"],
            ),
            Node(
                train_adapter,
                inputs=[*_JOB_INPUTS, "training_preflight"],
                outputs=["adapter", "training_metrics", "training_answers"],
                name="train_adapter",
                tags=["model"],
            ),
            Node(
                draw_training,
                inputs="training_metrics",
                outputs=["training_plot", "memory_plot"],
                name="draw_training",
                tags=["report"],
            ),
        ]
    )
