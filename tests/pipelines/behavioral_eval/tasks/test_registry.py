from collections import Counter

import pytest

from the_block_llm.pipelines.behavioral_eval.tasks.registry import TASKS, sample_items


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_task_makes_valid_and_reproducible_items(history, task):
    items = list(task.make_items(history, 1))
    assert items
    assert len({item.item_id for item in items}) == len(items)
    for item in items:
        assert len(set(item.choices)) == len(item.choices)
        assert all(choice.strip() for choice in item.choices)
        assert all(0 <= accuracy <= 1 for accuracy in item.heuristic_baselines.values())
        if item.task != "exists_or_not":
            assert len(item.choices) == 4
            assert item.choices[item.answer].strip() not in item.prefix
    assert items == list(task.make_items(history, 1))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_index_of_the_answer_varies(history, task):
    answers = Counter(item.answer for item in task.make_items(history, 1))
    assert max(answers.values()) <= 0.7 * answers.total()


def test_items_are_sampled_across_clusters_and_pairs_are_kept_together(history):
    items = sample_items(history, 6, seed=3)
    assert items == sample_items(history, 6, seed=3)
    by_task = {task.name: [item for item in items if item.task == task.name] for task in TASKS}
    assert all(len(task_items) <= 6 for task_items in by_task.values())
    assert len({item.cluster for item in by_task["also_changed"]}) == 6
    pairs = Counter(item.cluster for item in by_task["exists_or_not"])
    assert list(pairs.values()) == [2, 2, 2]
