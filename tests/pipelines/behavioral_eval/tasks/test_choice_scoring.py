import pytest

from the_block_llm.pipelines.behavioral_eval.tasks.choice import ChoiceItem
from the_block_llm.pipelines.behavioral_eval.tasks.choice_scoring import score_choices

ITEM = ChoiceItem("t", "t/1", "c", "one two", (" three", " nine hundred"), 0)


@pytest.mark.parametrize(
    ("nats", "chosen", "is_correct"),
    [
        ([6.0, 26.0], 0, True),
        # The longer choice has the higher total; nats per byte decide.
        ([6.1, 13.3], 0, True),
        ([6.1, 13.0], 1, False),
    ],
)
def test_choices_are_compared_by_nats_per_byte(nats, chosen, is_correct):
    score = score_choices(ITEM, nats)
    assert (score.chosen, score.is_correct) == (chosen, is_correct)
