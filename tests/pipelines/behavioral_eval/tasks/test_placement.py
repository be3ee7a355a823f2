import re
from dataclasses import replace

from tests.pipelines.behavioral_eval import toy_history

from the_block_llm.pipelines.behavioral_eval.tasks.placement import (
    file_of_new_function,
    folder_of_new_file,
)


def test_the_prompt_for_a_new_file_does_not_contain_its_name(history):
    for item in folder_of_new_file(history, 1):
        assert "new_" not in item.prefix
        assert all(choice.endswith("/\n") for choice in item.choices)


def test_the_prompt_for_a_new_function_contains_only_its_text(history):
    items = list(file_of_new_function(history, 1))
    assert len(items) == toy_history.N_LATER
    for item in items:
        function = item.prefix.split("\n\n")[1]
        assert function.startswith("pub fn rule_")
        assert function.endswith("}")
        assert "fn run" not in item.prefix
        assert "fn end" not in item.prefix
        assert item.choices[item.answer].strip().endswith("/rules.rs")


def test_a_rewritten_function_is_not_new(history):
    changes = [
        replace(
            change, patch=(change.patch or "").replace("+\n", f"-pub fn rule_{n}(old: u64) {{\n")
        )
        for commit in history.held_out_commits
        for change in commit.changes
        for n in re.findall(r"rule_(\d+)", change.patch or "")
    ]
    assert changes
    held_out_commits = [replace(history.held_out_commits[0], changes=tuple(changes))]
    assert list(file_of_new_function(replace(history, held_out_commits=held_out_commits), 1)) == []
