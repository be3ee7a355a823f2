import os
import subprocess
import sys

import pytest

from the_block_llm.retrieval.passages import (
    Passage,
    PassageIndex,
    commit_passages,
    file_passages,
    split_at_lines,
)


def test_search_keeps_jax_off_the_gpu(tmp_path):
    """bm25s initializes JAX on import, and JAX would preallocate three quarters of the GPU."""
    (tmp_path / "jax").mkdir()
    value_file = tmp_path / "seen"
    (tmp_path / "jax" / "__init__.py").write_text(
        "import os, pathlib\n"
        f"pathlib.Path({str(value_file)!r}).write_text(os.environ['JAX_PLATFORMS'])\n"
    )
    (tmp_path / "jax" / "lax.py").write_text("def top_k(values, k):\n    return values[:k]\n")
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    paths = [str(tmp_path), *sys.path]
    subprocess.run(
        [sys.executable, "-c", "import the_block_llm.retrieval.passages"],
        check=True,
        env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    assert value_file.read_text() == "cpu"


def test_files_are_found_by_words_of_their_path():
    index = PassageIndex([Passage("src/vote_count.rs", "fn a() {}"), Passage("b.rs", "fn b() {}")])
    assert [p.source for p in index.find("What is in voteCount?", 5)] == ["src/vote_count.rs"]


@pytest.mark.parametrize("question", ["", "zebra", "?!"])
def test_passages_without_a_common_word_are_not_found(question):
    index = PassageIndex([Passage("a.rs", "fn vote() {}"), Passage("b.rs", "fn count() {}")])
    assert index.find(question, 3) == []


def test_empty_index_finds_nothing(tmp_path):
    index = PassageIndex([])
    assert index.find("anything", 3) == []
    index.save(tmp_path)
    assert PassageIndex.load([], tmp_path).find("anything", 3) == []


def test_loaded_index_finds_the_same_passages(tmp_path):
    passages = [Passage(f"{n}.rs", f"fn vote_{n}() {{ tally({n % 3}) }}\n") for n in range(20)]
    index = PassageIndex(passages)
    index.save(tmp_path)
    loaded = PassageIndex.load(passages, tmp_path)
    for question in ("vote 7", "tally 2", "3.rs", "nothing"):
        assert loaded.find(question, 4) == index.find(question, 4)


def test_chunks_concatenate_to_the_text():
    text = "\n".join("x" * (n % 17) for n in range(200))
    chunks = split_at_lines(text, 50)
    assert "".join(chunk for _, chunk in chunks).replace("\n", "") == text.replace("\n", "")
    assert all(len(chunk) <= 50 for _, chunk in chunks)


def test_passage_line_numbers_match_the_file():
    lines = [f"line {n}\x0c\u2028" for n in range(1, 40)]
    text = "\r\n".join([*lines, "", "", "end"])
    for passage in file_passages("a.txt", text, 60):
        assert passage.first_line is not None
        assert passage.last_line is not None
        passage_lines = text.split("\n")[passage.first_line - 1 : passage.last_line]
        assert "\n".join(passage_lines) == passage.text.removesuffix("\n")


def test_changes_of_unselected_commits_are_skipped():
    commits = {"a1": {"subject": "one", "body": "why\n"}}
    changes = [{"sha": sha, "path": f"{n}.rs"} for sha in ("a1", "b2") for n in range(12)]
    [passage] = commit_passages(commits, changes, 100)
    assert passage.text == "one\nwhy\nFiles it changed:\n" + "\n".join(
        f"- {n}.rs" for n in range(10)
    )
    assert (passage.first_line, passage.last_line) == (None, None)
