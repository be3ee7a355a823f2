"""Pipeline definition: from a repository to its commits, changes and files."""

from kedro.pipeline import Node, Pipeline

from the_block_llm.pipelines.git_ingest.nodes import (
    compare_repositories,
    find_repositories,
    plot_ingest,
    read_commits,
    read_files,
    report_ingest,
)


def create_pipeline() -> Pipeline:
    """Create the pipeline from a repository to three tables and a report."""
    return Pipeline(
        [
            Node(
                find_repositories,
                inputs=[
                    "params:repository",
                    "params:repositories",
                    "params:git_ingest",
                    "params:sequence_build.cutoff",
                    "params:execution",
                ],
                outputs="repository",
                name="find_repositories",
                tags=["git"],
            ),
            Node(
                read_commits,
                inputs=["repository", "params:git_ingest", "params:execution"],
                outputs=["commits", "file_changes", "history_counts"],
                name="read_commits",
                tags=["git"],
            ),
            Node(
                read_files,
                inputs=["repository", "params:git_ingest", "history_counts", "params:execution"],
                outputs=["snapshot_files", "snapshot_counts"],
                name="read_files",
                tags=["git"],
            ),
            Node(
                compare_repositories,
                inputs=[
                    "repository",
                    "commits",
                    "snapshot_files",
                    "params:git_ingest",
                    "params:execution",
                ],
                outputs="overlaps",
                name="compare_repositories",
                tags=["git"],
            ),
            Node(
                report_ingest,
                inputs=["repository", "history_counts", "snapshot_counts", "overlaps"],
                outputs="ingest_report",
                name="report_ingest",
                tags=["report"],
            ),
            Node(
                plot_ingest,
                inputs=["repository", "commits", "ingest_report"],
                outputs=["ingest_history_plot", "ingest_kept_plot", "ingest_left_out_plot"],
                name="plot_ingest",
                tags=["report"],
            ),
        ]
    )
