from the_block_llm.pipelines.sequence_build.code.imports import dependencies_first
from the_block_llm.pipelines.sequence_build.code.source_file import SourceFile


def test_files_are_ordered_by_folder_and_dependencies_come_first() -> None:
    paths = ["a.py", "p/a.py", "p/b.py", "p/c.py", "p/q/x.py", "p/q/y.py", "p/z.py", "r/a.py"]
    files = [SourceFile(path, "Python", "") for path in paths]
    depends_on = {
        "p/a.py": ["p/z.py", "a.py", "p/b.py"],
        "p/b.py": ["p/c.py"],
        "p/c.py": ["p/a.py"],  # an import cycle
        "p/q/x.py": ["p/q/y.py", "p/a.py"],
    }
    assert [file.path for file in dependencies_first(files, depends_on)] == [
        "p/q/y.py", "p/q/x.py", "p/z.py", "p/c.py", "p/b.py", "p/a.py", "r/a.py", "a.py",
    ]  # fmt: skip
    assert list(dependencies_first([], {})) == []
