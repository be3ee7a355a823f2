from tests.builders.documents import AUTHORED_AT, make_commit

from the_block_llm.datasets.cutoff import Cutoff
from the_block_llm.pipelines.sequence_build.history.commits import History, merged_commits


def test_merged_commits_belong_to_the_first_merge_on_the_main_line() -> None:
    #  a - b ----- m1 - m2 (head)
    #   \- c - d -/    /
    #       \- e -----/
    parents = {"a": (), "b": ("a",), "c": ("a",), "d": ("c",), "e": ("c",),
               "m1": ("b", "d"), "m2": ("m1", "e")}  # fmt: skip
    commits = {sha: make_commit(sha, sha=sha, parents=of) for sha, of in parents.items()}
    history = History(commits, dict.fromkeys(commits, "train"), Cutoff("m2", AUTHORED_AT, "m2"))
    assert merged_commits(history) == {"m1": ["c", "d"], "m2": ["e"]}
