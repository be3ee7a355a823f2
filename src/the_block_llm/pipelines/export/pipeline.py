"""The pipeline ``export``."""

from kedro.pipeline import Node, Pipeline

from the_block_llm.pipelines.export.nodes import export_model


def create_pipeline() -> Pipeline:
    """Create the pipeline: from an adapter to a merged model folder and a report."""
    return Pipeline(
        [
            Node(
                export_model,
                inputs=["adapter", "probe_plan", "params:models", "params:model", "params:export"],
                outputs="export_report",
                name="export_model",
                tags=["model"],
            )
        ]
    )
