from collections import Counter
from pathlib import PurePosixPath

from the_block_llm.pipelines.behavioral_eval.tasks.file_existence import exists_or_not


def test_half_of_the_files_are_invented(history):
    items = list(exists_or_not(history, 1))
    for item in items:
        path = item.prefix.split("`")[1]
        assert (path in history.paths_at_cutoff) == (item.answer == 0)
    assert Counter(item.answer for item in items)[0] == len(items) / 2
    by_cluster = Counter(item.cluster for item in items)
    assert set(by_cluster.values()) == {2}
    folders = {item.cluster: PurePosixPath(item.prefix.split("`")[1]).parent for item in items}
    assert all(str(folder) == str(PurePosixPath(c).parent) for c, folder in folders.items())
