from collections import Counter

from the_block_llm.pipelines.behavioral_eval.tasks.general_ability import (
    general_questions,
    general_texts,
)


def test_general_ability_set_is_complete_and_balanced():
    assert len(general_texts(99)) == len(set(general_texts(99))) == 24
    questions = general_questions(99)
    assert len({item.item_id for item in questions}) == 24
    assert all(len(set(item.choices)) == 4 for item in questions)
    answers = Counter(item.answer for item in questions)
    assert max(answers.values()) < 12, "the answer must not always have the same index"
