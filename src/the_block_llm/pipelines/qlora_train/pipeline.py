"""Wiring of qlora_train."""

from kedro.pipeline import Node, Pipeline

from the_block_llm.pipelines.qlora_train.nodes import draw_training, train_adapter


def create_pipeline() -> Pipeline:
    """Rows in; adapter, metrics and plot out."""
    return Pipeline(
        [
            Node(
                train_adapter,
                inputs=[
                    "train_rows",
                    "validation_rows",
                    "repository",
                    "params:models",
                    "params:model",
                    "params:qlora_train",
                ],
                outputs=["adapter", "training_metrics"],
                name="train_adapter",
                tags=["qlora_train"],
            ),
            Node(
                draw_training,
                inputs="training_metrics",
                outputs="training_plot",
                name="draw_training",
                tags=["qlora_train"],
            ),
        ]
    )
