from the_block_llm.pipelines.behavioral_eval.tasks.commit_messages import patch_of_message


def test_patches_have_the_same_length_and_no_line_numbers(history):
    for item in patch_of_message(history, 1):
        assert "@@" not in "".join(item.choices)
        assert len({len(choice) for choice in item.choices}) == 1
