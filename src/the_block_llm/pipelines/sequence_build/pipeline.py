"""Pipeline definition of sequence_build."""

from kedro.pipeline import Node, Pipeline

from the_block_llm.pipelines.sequence_build.nodes import (
    describe_rows,
    pack_held_out,
    pack_train,
    pack_validation,
    plot_sequences,
    render_documents,
    report_sequences,
    screen_documents,
)

_TABLES = ["repository", "commits", "file_changes", "snapshot_files"]
_PARAMS = ["params:models", "params:model", "params:sequence_build"]
_PACKING_INPUTS = ["documents", *_PARAMS, "params:execution"]


def create_pipeline() -> Pipeline:
    """Create the pipeline that renders documents from the tables and packs them into rows."""
    return Pipeline(
        [
            Node(
                screen_documents, [*_TABLES, *_PARAMS, "params:execution"], "screening",
                name="screen_documents", tags=["documents"],
            ),
            Node(
                render_documents,
                [*_TABLES, "screening", *_PARAMS, "params:execution"],
                "documents",
                name="render_documents",
                tags=["documents"],
            ),
            Node(describe_rows, _PARAMS, "row_facts", name="describe_rows", tags=["rows"]),
            Node(
                pack_train, _PACKING_INPUTS, "train_rows", name="pack_train",
                tags=["rows"],
            ),
            Node(
                pack_validation, _PACKING_INPUTS, "validation_rows",
                name="pack_validation", tags=["rows"],
            ),
            Node(
                pack_held_out, _PACKING_INPUTS, "held_out_rows", name="pack_held_out",
                tags=["rows"],
            ),
            Node(
                report_sequences,
                [
                    "repository", "commits", "documents", "screening", "row_facts",
                    "train_rows", "validation_rows", "held_out_rows", *_PARAMS,
                ],
                "sequence_report",
                name="report_sequences",
                tags=["report"],
            ),
            Node(
                plot_sequences,
                ["sequence_report", "train_rows", "validation_rows", "held_out_rows"],
                ["sequence_mix_plot", "sequence_rows_plot"],
                name="plot_sequences",
                tags=["report"],
            ),
        ]
    )  # fmt: skip
