"""A small bundled set of general texts and questions, which detects catastrophic forgetting."""

import random
from importlib.resources import files
from typing import Any, Final

import yaml

from the_block_llm.pipelines.behavioral_eval.tasks.choice import ChoiceItem, insert_answer

TASK: Final = "general_questions"
_FILE: Final = "general_ability.yml"


def general_texts(n_texts: int) -> list[str]:
    """Return the first ``n_texts`` bundled texts."""
    texts: list[str] = _load()["texts"]
    return texts[:n_texts]


def general_questions(n_questions: int) -> list[ChoiceItem]:
    """Return the first ``n_questions`` bundled questions, with four choices each."""
    items = []
    for question in _load()["questions"][:n_questions]:
        rng = random.Random(question["ask"])  # noqa: S311
        choices, answer = insert_answer(question["right"], question["wrong"], rng)
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


def _load() -> dict[str, list[Any]]:
    text = files(__package__).joinpath(_FILE).read_text(encoding="utf-8")
    data: dict[str, list[Any]] = yaml.safe_load(text)
    return data
