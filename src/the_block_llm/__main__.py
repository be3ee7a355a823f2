"""Run the packaged project: ``python -m the_block_llm OPTIONS``, in a folder that has ``conf/``.

The options are those of ``kedro run``.
"""

from kedro.framework.project import configure_project


def main() -> None:
    """Configure the package as Kedro's commands do in a project, and run."""
    configure_project(__package__)
    # After the settings, which set variables that torch reads when it is imported.
    from the_block_llm.cli import run  # noqa: PLC0415

    run(prog_name=f"python -m {__package__}")


if __name__ == "__main__":
    main()
