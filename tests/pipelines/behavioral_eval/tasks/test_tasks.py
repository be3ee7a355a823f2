import re
from collections import Counter
from dataclasses import replace
from pathlib import PurePosixPath

import pytest
from tests.pipelines.behavioral_eval import toy_history

from the_block_llm.pipelines.behavioral_eval.tasks.choice import ChoiceItem, draw_spread, trick
from the_block_llm.pipelines.behavioral_eval.tasks.history_split import read_two_times
from the_block_llm.pipelines.behavioral_eval.tasks.registry import TASKS, draw_items


@pytest.fixture(scope="module")
def times(tmp_path_factory):
    tables = toy_history.tables(tmp_path_factory.mktemp("tables"))
    return read_two_times(toy_history.CUTOFF, **tables)


def items_of(times, name):
    [task] = [task for task in TASKS if task.name == name]
    return list(task.make(times, 1))


def test_both_sides_of_the_cutoff(times):
    assert times.project == "chain"
    assert len(times.later) == toy_history.N_LATER
    assert times.times_changed["src/ledger/mod.rs"] == 4
    assert "src/ledger/new_25.rs" not in times.paths_before
    assert "Cargo.lock" not in times.paths_before
    assert "part 3" not in times.documents_before["docs/ledger.md"]
    assert "part 3" in times.documents_after["docs/ledger.md"]


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_every_task_makes_sound_items(times, name):
    items = items_of(times, name)
    assert items
    assert len({item.item_id for item in items}) == len(items)
    for item in items:
        assert len(set(item.choices)) == len(item.choices)
        assert all(choice.strip() for choice in item.choices)
        assert all(0 <= chance <= 1 for chance in item.tricks.values())
        if item.task != "exists_or_not":
            assert len(item.choices) == 4
            assert item.choices[item.answer].strip() not in item.prefix
    assert items == items_of(times, name)


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_the_answer_has_no_place_of_its_own(times, name):
    places = Counter(item.answer for item in items_of(times, name))
    assert max(places.values()) <= 0.7 * places.total()


def test_also_changed_offers_files_that_the_commit_left_alone(times):
    commits = {commit.sha: commit for commit in times.later}
    for item in items_of(times, "also_changed"):
        changed = {change.path for change in commits[item.cluster].changes}
        right = [choice.strip() in changed for choice in item.choices]
        assert right == [place == item.answer for place in range(4)]


def test_patches_show_neither_paths_nor_line_numbers(times):
    for item in items_of(times, "patch_of_message"):
        assert "@@" not in "".join(item.choices)
        assert len({len(choice) for choice in item.choices}) == 1


def test_folders_are_asked_without_the_name_of_the_file(times):
    for item in items_of(times, "folder_of_new_file"):
        assert "new_" not in item.prefix
        assert all(choice.endswith("/\n") for choice in item.choices)


def test_functions_are_asked_by_their_own_text(times):
    items = items_of(times, "file_of_new_function")
    assert len(items) == toy_history.N_LATER
    for item in items:
        shown = item.prefix.split("\n\n")[1]
        assert shown.startswith("pub fn rule_")
        assert shown.endswith("}")
        assert "fn run" not in item.prefix
        assert "fn end" not in item.prefix
        assert item.choices[item.answer].strip().endswith("/rules.rs")


def test_a_function_that_was_there_before_is_not_new(times):
    changed = [
        replace(
            change, patch=(change.patch or "").replace("+\n", f"-pub fn rule_{n}(old: u64) {{\n")
        )
        for commit in times.later
        for change in commit.changes
        for n in re.findall(r"rule_(\d+)", change.patch or "")
    ]
    assert changed
    later = [replace(times.later[0], changes=tuple(changed))]
    task = next(task for task in TASKS if task.name == "file_of_new_function")
    assert list(task.make(replace(times, later=later), 1)) == []


def test_only_documentation_that_is_new_is_asked_about(times):
    headings = [
        item.prefix.split("## ")[1].strip() for item in items_of(times, "text_under_heading")
    ]
    assert headings
    assert all(heading.endswith(("part 2", "part 3")) for heading in headings)


def test_a_paragraph_that_moved_or_was_touched_up_is_not_new(times):
    old = times.documents_before["docs/ledger.md"]
    paragraph = max((p for p in old.split("\n\n") if "#" not in p), key=len).strip()
    touched_up = paragraph.replace(" ", " also ", 1)
    known = dict(times.documents_after)
    known["docs/moved.md"] = f"# Moved\n\n{paragraph}\n\n# Touched up\n\n{touched_up}\n"
    task = next(task for task in TASKS if task.name == "text_under_heading")
    asked = list(task.make(replace(times, documents_after=known), 1))
    assert {item.cluster for item in asked} == {
        item.cluster for item in items_of(times, "text_under_heading")
    }


def test_half_of_the_files_do_not_exist(times):
    items = items_of(times, "exists_or_not")
    for item in items:
        path = item.prefix.split("`")[1]
        assert (path in times.paths_before) == (item.answer == 0)
    assert Counter(item.answer for item in items)[0] == len(items) / 2
    by_cluster = Counter(item.cluster for item in items)
    assert set(by_cluster.values()) == {2}
    folders = {item.cluster: PurePosixPath(item.prefix.split("`")[1]).parent for item in items}
    assert all(str(folder) == str(PurePosixPath(c).parent) for c, folder in folders.items())


def test_items_are_drawn_over_many_sources_and_pairs_stay_together(times):
    drawn = draw_items(times, 6, seed=3)
    assert drawn == draw_items(times, 6, seed=3)
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
    assert trick(scores, answer) == chance


def test_draw_spread_takes_one_of_each_source_first():
    items = [
        ChoiceItem("t", f"{cluster}{n}", cluster, "", ("a", "b"), 0)
        for cluster in "xyz"
        for n in range(5)
    ]
    drawn = draw_spread(items, 4, seed=0)
    assert sorted(Counter(item.cluster for item in drawn).values()) == [1, 1, 2]
    assert len(draw_spread(items, 99, seed=0)) == 15
