from the_block_llm.pipelines.behavioral_eval.tasks.co_change import also_changed


def test_distractors_are_files_that_the_commit_did_not_change(history):
    commits = {commit.sha: commit for commit in history.held_out_commits}
    for item in also_changed(history, 1):
        changed = {change.path for change in commits[item.cluster].changes}
        is_changed = [choice.strip() in changed for choice in item.choices]
        assert is_changed == [index == item.answer for index in range(4)]
