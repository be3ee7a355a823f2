"""Every probe to every arm, with the same prompt, template and budget."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from the_block_llm.models.inference.generation import Completion, SamplingParams, generate
from the_block_llm.pipelines.behavioral_eval.params import Arm, Budget, Sampling
from the_block_llm.pipelines.behavioral_eval.probes.probe_plan import PlannedProbe
from the_block_llm.pipelines.behavioral_eval.probes.prompts import encode_prompt, render_prompt
from the_block_llm.pipelines.behavioral_eval.runner.evaluated_model import Subject, retrieves
from the_block_llm.pipelines.behavioral_eval.runner.result_cache import Journal, result_key
from the_block_llm.progress import ProgressBar, progress_bar
from the_block_llm.retrieval.passages import PassageIndex


@dataclass(frozen=True)
class _Question:
    """One probe as one arm is asked it."""

    planned: PlannedProbe
    arm: Arm
    decoding: SamplingParams
    prompt: str
    retrieved: tuple[str, ...]
    ids: list[int]

    @property
    def key(self) -> str:
        return result_key("answer", self.prompt, asdict(self.decoding))


def answer_probes(
    subject: Subject,
    probes: Sequence[PlannedProbe],
    arms: Sequence[Arm],
    sampling: Sampling,
    budget: Budget,
    index: PassageIndex,
    result_cache_folder: Path,
) -> list[dict[str, Any]]:
    """Put every probe to every arm.

    Args:
        subject: What answers.
        probes: The questions.
        arms: Which arms.
        sampling: How answers are decoded.
        budget: How long answers may be, and how many are made together.
        index: Where the arms with retrieval look.
        result_cache_folder: Answers that are there already are not made again.

    Returns:
        Rows of the schema ``COMPLETIONS``, in the order of arms, then probes, then seeds.
    """
    questions = [
        question
        for arm in arms
        for planned in probes
        for question in _questions(subject, planned, arm, sampling, budget, index)
    ]
    rows: list[dict[str, Any]] = []
    with progress_bar("Asking the arms", len(questions)) as bar:
        for weights in dict.fromkeys(subject.weights_of(arm) for arm in arms):
            asked = [q for q in questions if subject.weights_of(q.arm) == weights]
            with Journal(result_cache_folder, weights) as journal:
                _answer(subject, asked, budget, journal, bar)
                rows += [_row(question, weights, journal[question.key]) for question in asked]
    order = {arm: place for place, arm in enumerate(arms)}
    return sorted(rows, key=lambda row: order[row["arm"]])


def _questions(
    subject: Subject,
    planned: PlannedProbe,
    arm: Arm,
    sampling: Sampling,
    budget: Budget,
    index: PassageIndex,
) -> list[_Question]:
    asked = f"{planned.probe.context}\n{planned.probe.prompt}"
    passages = index.find(asked, budget.passages) if retrieves(arm) else []
    tokenizer = subject.tokenizer_of(arm)
    prompt = render_prompt(tokenizer, subject.role, planned.probe, passages)
    ids = encode_prompt(tokenizer, subject.role, prompt)
    # Greedy decoding gives the same answer whatever the seed.
    seeds = sampling.seeds if sampling.temperature > 0 else sampling.seeds[:1]
    return [
        _Question(
            planned=planned,
            arm=arm,
            decoding=SamplingParams(budget.new_tokens, sampling.temperature, sampling.top_p, seed),
            prompt=prompt,
            retrieved=tuple(passage.source for passage in passages),
            ids=ids,
        )
        for seed in seeds
    ]


def _answer(
    subject: Subject,
    questions: Sequence[_Question],
    budget: Budget,
    journal: Journal,
    bar: ProgressBar,
) -> None:
    """Answer what the journal lacks; arms of the same weights share batches."""
    missing = {q.key: q for q in questions if q.key not in journal}
    bar.advance(len(questions) - len(missing))
    for decoding in dict.fromkeys(q.decoding for q in missing.values()):
        group = [q for q in missing.values() if q.decoding == decoding]

        def keep(place: int, completion: Completion, group: list[_Question] = group) -> None:
            journal.put(group[place].key, asdict(completion))
            bar.advance()

        with subject.as_arm(group[0].arm) as model:
            generate(
                model,
                subject.tokenizer_of(group[0].arm),
                [question.ids for question in group],
                decoding,
                batch_rows=budget.batch_rows,
                cache_gib=budget.cache_gib,
                on_completion=keep,
            )


def _row(question: _Question, weights: str, answer: dict[str, Any]) -> dict[str, Any]:
    settings = asdict(question.decoding)
    return {
        "key": result_key(weights, question.key),
        "suite": question.planned.suite,
        "probe_id": question.planned.probe.id,
        "arm": question.arm,
        "seed": settings.pop("seed"),
        "prompt": question.prompt,
        "retrieved": list(question.retrieved),
        "completion": answer["text"],
        "finish": answer["finish"],
        "n_prompt_tokens": len(question.ids),
        "n_tokens": answer["n_tokens"],
        "settings": json.dumps(settings),
    }
