from collections import Counter

import pytest

from the_block_llm.pipelines.behavioral_eval.tasks.choice import (
    ChoiceItem,
    heuristic_accuracy,
    sample_across_clusters,
)


@pytest.mark.parametrize(
    ("scores", "answer", "accuracy"),
    [([1, 3, 2], 1, 1.0), ([1, 3, 3, 0], 2, 0.5), ([0, 0, 0, 0], 1, 0.25), ([2, 1], 1, 0.0)],
)
def test_heuristic_accuracy(scores, answer, accuracy):
    assert heuristic_accuracy(scores, answer) == accuracy


def test_one_item_of_each_cluster_is_sampled_before_a_second():
    items = [
        ChoiceItem("t", f"{cluster}{n}", cluster, "", ("a", "b"), 0)
        for cluster in "xyz"
        for n in range(5)
    ]
    sample = sample_across_clusters(items, 4, seed=0)
    assert sorted(Counter(item.cluster for item in sample).values()) == [1, 1, 2]
    assert len(sample_across_clusters(items, 99, seed=0)) == 15
