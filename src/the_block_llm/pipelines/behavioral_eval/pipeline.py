"""Definition of the pipeline ``behavioral_eval``."""

from kedro.pipeline import Node, Pipeline

from the_block_llm.pipelines.behavioral_eval.nodes import (
    check_suites,
    evaluate_arms,
    judge,
    plan_probes,
    render_page,
)


def create_pipeline() -> Pipeline:
    """Create the pipeline: from held-out data, adapter and suites to scores and report."""
    return Pipeline(
        [
            Node(
                check_suites,
                inputs=["suite_files", "params:behavioral_eval"],
                outputs="probe_suites",
                name="check_suites",
                tags=["probes"],
            ),
            Node(
                plan_probes,
                inputs={
                    "suites": "probe_suites",
                    "repository": "repository",
                    "snapshot_files": "snapshot_files",
                    "model": "params:model",
                    "models": "params:models",
                    "params": "params:behavioral_eval",
                },
                outputs="probe_plan",
                name="plan_probes",
                tags=["probes"],
            ),
            Node(
                evaluate_arms,
                inputs={
                    "probe_plan": "probe_plan",
                    "adapter": "adapter",
                    "repository": "repository",
                    "commits": "commits",
                    "file_changes": "file_changes",
                    "snapshot_files": "snapshot_files",
                    "held_out_rows": "held_out_rows",
                    "documents": "documents",
                    "model": "params:model",
                    "models": "params:models",
                    "memory_cap_gib": "params:qlora_train.memory_cap_gib",
                    "params": "params:behavioral_eval",
                },
                outputs=["completions", "item_scores"],
                name="evaluate_arms",
                tags=["model"],
            ),
            Node(
                judge,
                inputs={
                    "probe_plan": "probe_plan",
                    "completions": "completions",
                    "item_scores": "item_scores",
                    "snapshot_files": "snapshot_files",
                    "commits": "commits",
                    "adapter": "adapter",
                    "params": "params:behavioral_eval",
                },
                outputs="behavioral_report",
                name="judge",
                tags=["report"],
            ),
            Node(
                render_page,
                inputs="behavioral_report",
                outputs="behavioral_page",
                name="render_page",
                tags=["report"],
            ),
        ]
    )
