import re
from collections import Counter
from dataclasses import replace
from pathlib import PurePosixPath

import pytest
from tests.pipelines.behavioral_eval import toy_history

from the_block_llm.pipelines.behavioral_eval.tasks.choice import (
    ChoiceItem,
    heuristic_accuracy,
    sample_across_clusters,
)
from the_block_llm.pipelines.behavioral_eval.tasks.history_split import read_history_split
from the_block_llm.pipelines.behavioral_eval.tasks.registry import TASKS, sample_items


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    tables = toy_history.tables(tmp_path_factory.mktemp("tables"))
    return read_history_split(toy_history.CUTOFF, **tables)


def items_of(history, name):
    [task] = [task for task in TASKS if task.name == name]
    return list(task.make_items(history, 1))


def test_both_sides_of_the_cutoff(history):
    assert history.project == "chain"
    assert len(history.later_commits) == toy_history.N_LATER
    assert history.change_counts["src/ledger/mod.rs"] == 4
    assert "src/ledger/new_25.rs" not in history.paths_at_cutoff
    assert "Cargo.lock" not in history.paths_at_cutoff
    assert "part 3" not in history.documents_at_cutoff["docs/ledger.md"]
    assert "part 3" in history.documents_at_head["docs/ledger.md"]


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_every_task_makes_sound_items(history, name):
    items = items_of(history, name)
    assert items
    assert len({item.item_id for item in items}) == len(items)
    for item in items:
        assert len(set(item.choices)) == len(item.choices)
        assert all(choice.strip() for choice in item.choices)
        assert all(0 <= chance <= 1 for chance in item.heuristic_baselines.values())
        if item.task != "exists_or_not":
            assert len(item.choices) == 4
            assert item.choices[item.answer].strip() not in item.prefix
    assert items == items_of(history, name)


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_the_answer_has_no_place_of_its_own(history, name):
    places = Counter(item.answer for item in items_of(history, name))
    assert max(places.values()) <= 0.7 * places.total()


def test_also_changed_offers_files_that_the_commit_left_alone(history):
    commits = {commit.sha: commit for commit in history.later_commits}
    for item in items_of(history, "also_changed"):
        changed = {change.path for change in commits[item.cluster].changes}
        right = [choice.strip() in changed for choice in item.choices]
        assert right == [place == item.answer for place in range(4)]


def test_patches_show_neither_paths_nor_line_numbers(history):
    for item in items_of(history, "patch_of_message"):
        assert "@@" not in "".join(item.choices)
        assert len({len(choice) for choice in item.choices}) == 1


def test_folders_are_asked_without_the_name_of_the_file(history):
    for item in items_of(history, "folder_of_new_file"):
        assert "new_" not in item.prefix
        assert all(choice.endswith("/\n") for choice in item.choices)


def test_functions_are_asked_by_their_own_text(history):
    items = items_of(history, "file_of_new_function")
    assert len(items) == toy_history.N_LATER
    for item in items:
        shown = item.prefix.split("\n\n")[1]
        assert shown.startswith("pub fn rule_")
        assert shown.endswith("}")
        assert "fn run" not in item.prefix
        assert "fn end" not in item.prefix
        assert item.choices[item.answer].strip().endswith("/rules.rs")


def test_a_function_that_was_there_before_is_not_new(history):
    changed = [
        replace(
            change, patch=(change.patch or "").replace("+\n", f"-pub fn rule_{n}(old: u64) {{\n")
        )
        for commit in history.later_commits
        for change in commit.changes
        for n in re.findall(r"rule_(\d+)", change.patch or "")
    ]
    assert changed
    later_commits = [replace(history.later_commits[0], changes=tuple(changed))]
    task = next(task for task in TASKS if task.name == "file_of_new_function")
    assert list(task.make_items(replace(history, later_commits=later_commits), 1)) == []


def test_only_documentation_that_is_new_is_asked_about(history):
    headings = [
        item.prefix.split("## ")[1].strip() for item in items_of(history, "text_under_heading")
    ]
    assert headings
    assert all(heading.endswith(("part 2", "part 3")) for heading in headings)


def test_a_paragraph_that_moved_or_was_touched_up_is_not_new(history):
    old = history.documents_at_cutoff["docs/ledger.md"]
    paragraph = max((p for p in old.split("\n\n") if "#" not in p), key=len).strip()
    touched_up = paragraph.replace(" ", " also ", 1)
    known = dict(history.documents_at_head)
    known["docs/moved.md"] = f"# Moved\n\n{paragraph}\n\n# Touched up\n\n{touched_up}\n"
    task = next(task for task in TASKS if task.name == "text_under_heading")
    asked = list(task.make_items(replace(history, documents_at_head=known), 1))
    assert {item.cluster for item in asked} == {
        item.cluster for item in items_of(history, "text_under_heading")
    }


def test_half_of_the_files_do_not_exist(history):
    items = items_of(history, "exists_or_not")
    for item in items:
        path = item.prefix.split("`")[1]
        assert (path in history.paths_at_cutoff) == (item.answer == 0)
    assert Counter(item.answer for item in items)[0] == len(items) / 2
    by_cluster = Counter(item.cluster for item in items)
    assert set(by_cluster.values()) == {2}
    folders = {item.cluster: PurePosixPath(item.prefix.split("`")[1]).parent for item in items}
    assert all(str(folder) == str(PurePosixPath(c).parent) for c, folder in folders.items())


def test_items_are_drawn_over_many_sources_and_pairs_stay_together(history):
    drawn = sample_items(history, 6, seed=3)
    assert drawn == sample_items(history, 6, seed=3)
    by_task = {task.name: [i for i in drawn if i.task == task.name] for task in TASKS}
    assert all(len(items) <= 6 for items in by_task.values())
    assert len({item.cluster for item in by_task["also_changed"]}) == 6
    pairs = Counter(item.cluster for item in by_task["exists_or_not"])
    assert list(pairs.values()) == [2, 2, 2]


@pytest.mark.parametrize(
    ("scores", "answer", "chance"),
    [([1, 3, 2], 1, 1.0), ([1, 3, 3, 0], 2, 0.5), ([0, 0, 0, 0], 1, 0.25), ([2, 1], 1, 0.0)],
)
def test_trick(scores, answer, chance):
    assert heuristic_accuracy(scores, answer) == chance


def test_draw_spread_takes_one_of_each_source_first():
    items = [
        ChoiceItem("t", f"{cluster}{n}", cluster, "", ("a", "b"), 0)
        for cluster in "xyz"
        for n in range(5)
    ]
    drawn = sample_across_clusters(items, 4, seed=0)
    assert sorted(Counter(item.cluster for item in drawn).values()) == [1, 1, 2]
    assert len(sample_across_clusters(items, 99, seed=0)) == 15
