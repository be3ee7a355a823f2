"""Generates the answer of every arm to every probe, with the same prompt, template and budget."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from the_block_llm.models.inference.generation import Completion, SamplingParams, generate
from the_block_llm.pipelines.behavioral_eval.params import Arm, DeviceBudget, Sampling
from the_block_llm.pipelines.behavioral_eval.probes.probe_plan import PlannedProbe
from the_block_llm.pipelines.behavioral_eval.probes.prompts import encode_prompt, render_prompt
from the_block_llm.pipelines.behavioral_eval.runner.evaluated_model import (
    EvaluatedModel,
    uses_retrieval,
)
from the_block_llm.pipelines.behavioral_eval.runner.result_cache import ResultCache, result_key
from the_block_llm.progress import ProgressBar, progress_bar
from the_block_llm.retrieval.passages import PassageIndex


@dataclass(frozen=True)
class _GenerationRequest:
    """One probe, prompted for one arm and one seed."""

    planned: PlannedProbe
    arm: Arm
    decoding: SamplingParams
    prompt: str
    retrieved: tuple[str, ...]
    prompt_ids: list[int]

    @property
    def key(self) -> str:
        return result_key("answer", self.prompt_ids, asdict(self.decoding))


def answer_probes(
    evaluated_model: EvaluatedModel,
    probes: Sequence[PlannedProbe],
    arms: Sequence[Arm],
    sampling: Sampling,
    budget: DeviceBudget,
    index: PassageIndex,
    result_cache_folder: Path,
) -> list[dict[str, Any]]:
    """Generate the answer of each arm to each probe.

    Args:
        evaluated_model: The model under test.
        probes: The questions.
        arms: The arms to evaluate.
        sampling: Decoding settings.
        budget: Limits answer length and batch size.
        index: Passages for the arms with retrieval.
        result_cache_folder: Cached answers are read from here instead of generated again.

    Returns:
        Rows of the schema ``COMPLETIONS``, ordered by arm, probe and seed.
    """
    requests = [
        request
        for arm in arms
        for planned in probes
        for request in _build_requests(evaluated_model, planned, arm, sampling, budget, index)
    ]
    rows: list[dict[str, Any]] = []
    with progress_bar("Generating answers", len(requests)) as bar:
        for weights_id in dict.fromkeys(evaluated_model.weights_id(arm) for arm in arms):
            group = [r for r in requests if evaluated_model.weights_id(r.arm) == weights_id]
            with ResultCache(result_cache_folder, weights_id) as cache:
                _generate_missing(evaluated_model, group, budget, cache, bar)
                rows += [
                    _completion_row(request, weights_id, cache[request.key]) for request in group
                ]
    arm_order = {arm: position for position, arm in enumerate(arms)}
    return sorted(rows, key=lambda row: arm_order[row["arm"]])


def _build_requests(
    evaluated_model: EvaluatedModel,
    planned: PlannedProbe,
    arm: Arm,
    sampling: Sampling,
    budget: DeviceBudget,
    index: PassageIndex,
) -> list[_GenerationRequest]:
    query = f"{planned.probe.context}\n{planned.probe.prompt}"
    passages = index.find(query, budget.passages) if uses_retrieval(arm) else []
    tokenizer = evaluated_model.tokenizer_for(arm)
    prompt = render_prompt(tokenizer, evaluated_model.role, planned.probe, passages)
    prompt_ids = encode_prompt(tokenizer, evaluated_model.role, prompt)
    # Greedy decoding does not depend on the seed.
    seeds = sampling.seeds if sampling.temperature > 0 else sampling.seeds[:1]
    return [
        _GenerationRequest(
            planned=planned,
            arm=arm,
            decoding=SamplingParams(budget.new_tokens, sampling.temperature, sampling.top_p, seed),
            prompt=prompt,
            retrieved=tuple(passage.source for passage in passages),
            prompt_ids=prompt_ids,
        )
        for seed in seeds
    ]


def _generate_missing(
    evaluated_model: EvaluatedModel,
    requests: Sequence[_GenerationRequest],
    budget: DeviceBudget,
    cache: ResultCache,
    bar: ProgressBar,
) -> None:
    """Generate the answers that are not cached; arms with the same weights share batches."""
    missing = {r.key: r for r in requests if r.key not in cache}
    bar.advance(len(requests) - len(missing))
    for decoding in dict.fromkeys(r.decoding for r in missing.values()):
        group = [r for r in missing.values() if r.decoding == decoding]

        def store(
            index: int, completion: Completion, group: list[_GenerationRequest] = group
        ) -> None:
            cache.put(group[index].key, asdict(completion))
            bar.advance()

        with evaluated_model.activate(group[0].arm) as model:
            generate(
                model,
                evaluated_model.tokenizer_for(group[0].arm),
                [request.prompt_ids for request in group],
                decoding,
                batch_rows=budget.batch_rows,
                cache_gib=budget.cache_gib,
                on_completion=store,
            )


def _completion_row(
    request: _GenerationRequest, weights_id: str, answer: dict[str, Any]
) -> dict[str, Any]:
    settings = asdict(request.decoding)
    return {
        "key": result_key(weights_id, request.key),
        "suite": request.planned.suite,
        "probe_id": request.planned.probe.id,
        "arm": request.arm,
        "seed": settings.pop("seed"),
        "prompt": request.prompt,
        "retrieved": list(request.retrieved),
        "completion": answer["text"],
        "finish": answer["finish"],
        "n_prompt_tokens": len(request.prompt_ids),
        "n_tokens": answer["n_tokens"],
        "settings": json.dumps(settings),
    }
