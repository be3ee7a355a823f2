"""Wiring of ``git_ingest``: from a repository to its commits, changes and files."""

from kedro.pipeline import Node, Pipeline

from the_block_llm.pipelines.git_ingest.nodes import (
    find_repositories,
    plot_ingest,
    read_commits,
    read_files,
    report_ingest,
)


def create_pipeline() -> Pipeline:
    """Repository in, three tables and a report out."""
    return Pipeline(
        [
            Node(
                find_repositories,
                inputs=[
                    "params:repository",
                    "params:repositories",
                    "params:git_ingest",
                    "params:sequence_build.cutoff",
                ],
                outputs="repository",
                name="find_repositories",
                tags=["git"],
            ),
            Node(
                read_commits,
                inputs=["repository", "params:git_ingest"],
                outputs=["commits", "file_changes", "history_counts"],
                name="read_commits",
                tags=["git"],
            ),
            Node(
                read_files,
                inputs=["repository", "params:git_ingest"],
                outputs=["snapshot_files", "snapshot_counts"],
                name="read_files",
                tags=["git"],
            ),
            Node(
                report_ingest,
                inputs=["repository", "history_counts", "snapshot_counts"],
                outputs="ingest_report",
                name="report_ingest",
                tags=["report"],
            ),
            Node(
                plot_ingest,
                inputs=["repository", "commits", "ingest_report"],
                outputs=["ingest_history_plot", "ingest_left_out_plot"],
                name="plot_ingest",
                tags=["report"],
            ),
        ]
    )
