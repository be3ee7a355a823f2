"""A small fixed set that no repository holds; worse scores on it after tuning are forgetting."""

import random
from importlib.resources import files
from typing import Any, Final

import yaml

from the_block_llm.pipelines.behavioral_eval.tasks.choice import ChoiceItem, arrange

TASK: Final = "general_questions"
_FILE: Final = "general_ability.yml"


def general_texts(n_texts: int) -> list[str]:
    """The first ``n_texts`` of the shipped texts."""
    texts: list[str] = _read()["texts"]
    return texts[:n_texts]


def general_questions(n_questions: int) -> list[ChoiceItem]:
    """The first ``n_questions`` of the shipped questions, four choices each."""
    items = []
    for question in _read()["questions"][:n_questions]:
        source = random.Random(question["ask"])  # noqa: S311
        choices, answer = arrange(question["right"], question["wrong"], source)
        items.append(
            ChoiceItem(
                task=TASK,
                item_id=f"{TASK}/{question['ask']}",
                cluster=question["ask"],
                prefix=question["ask"],
                choices=tuple(f" {choice}." for choice in choices),
                answer=answer,
            )
        )
    return items


def _read() -> dict[str, list[Any]]:
    text = files(__package__).joinpath(_FILE).read_text(encoding="utf-8")
    data: dict[str, list[Any]] = yaml.safe_load(text)
    return data
