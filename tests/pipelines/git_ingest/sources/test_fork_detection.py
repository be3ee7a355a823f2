"""Forks and copied files among repositories."""

import random
from pathlib import Path
from typing import Any

import pytest
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import ingest


def random_files(seed: int, n_files: int, folder: str = "") -> dict[str, str]:
    rng = random.Random(seed)
    return {
        f"{folder}module{number}.py": "".join(
            f"value_{rng.randrange(10**9)} = compute({rng.randrange(10**9)})\n" for _ in range(20)
        )
        for number in range(n_files)
    }


@pytest.fixture
def company(tmp_path: Path) -> Path:
    folder = tmp_path / "company"
    library = GitRepository(folder / "library")
    for number in range(4):
        library.commit(
            f"Write the library, part {number}", random_files(number, 3, f"src{number}/")
        )
    # A fork made with git, with commits of its own.
    library.git("clone", "-q", "--bare", ".", str(folder / "fork.git"))
    fork = GitRepository(folder / "fork.git", bare=True)
    fork.commit("Diverge", random_files(50, 1, "own/"))
    # The same files without the history, one of them slightly changed.
    whole = {path: text for n in range(4) for path, text in random_files(n, 3, f"src{n}/").items()}
    whole["src0/module0.py"] += "changed_afterwards = True\n"
    GitRepository(folder / "squashed").commit("Import", whole)
    # An application with a copy of part of the library, reindented.
    application = GitRepository(folder / "application")
    copied = {
        f"lib/copied/{path}": text.replace(" = ", "  =  ")
        for n in range(2)
        for path, text in random_files(n, 3, f"src{n}/").items()
    }
    application.commit("Begin", {**random_files(70, 30, "app/"), **copied})
    GitRepository(folder / "unrelated").commit("Begin", random_files(90, 10))
    return folder


def test_forks_and_copies_are_found(tmp_path: Path, company: Path) -> None:
    result = ingest(".", tmp_path / "out", repositories=str(company))
    found: dict[frozenset[str], Any] = {
        frozenset({entry["repository"], entry["of"]}): entry for entry in result.report["overlaps"]
    }
    fork = found[frozenset({"fork", "library"})]
    assert (fork["kind"], fork["shared_commits"]) == ("fork", 4)
    squashed = found[frozenset({"squashed", "library"})]
    assert (squashed["kind"], squashed["shared_commits"]) == ("fork", 0)
    assert squashed["likeness"] > 0.9
    copied = found[frozenset({"application", "library"})]
    assert copied == {
        "repository": "application", "of": "library", "kind": "copied_files",
        "shared_commits": 0, "shared_files": 6, "likeness": copied["likeness"],
        "folder": "lib/copied",
    }  # fmt: skip
    assert not any("unrelated" in pair for pair in found)
    assert any("6 files of library" in warning for warning in result.report["warnings"])


def test_a_single_repository_has_no_overlaps(tmp_path: Path, company: Path) -> None:
    assert ingest(company / "library", tmp_path / "out").report["overlaps"] == []
