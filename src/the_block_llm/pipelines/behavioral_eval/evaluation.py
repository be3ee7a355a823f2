"""Ask and measure every arm, on one loaded model.

Base and tuned are the same weights with the adapter switched off and on, so nothing but the
adapter can differ between them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from the_block_llm.models.generation import Completion, Decoding, generate
from the_block_llm.pipelines.behavioral_eval.held_out import (
    PieceCost,
    Source,
    batches_of_rows,
    measure_rows,
)
from the_block_llm.pipelines.behavioral_eval.params import Arm, Budget, Sampling
from the_block_llm.pipelines.behavioral_eval.prompts import encode_prompt, render_prompt
from the_block_llm.pipelines.behavioral_eval.suites import Probe
from the_block_llm.progress import progress_bar

HELD_OUT_TASK = "held_out"


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a model with its adapter, and how to speak to it."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    role: Literal["advisor", "completion"]
    base_id: str
    """Identifies the base weights."""
    adapter_id: str
    """Identifies the adapter's weights."""

    @contextmanager
    def as_arm(self, arm: Arm) -> Iterator[PeftModel]:
        """The model as ``arm`` sees it."""
        if arm.startswith("tuned"):
            yield self.model
        else:
            with self.model.disable_adapter():
                yield self.model

    def weights_of(self, arm: Arm) -> str:
        """Identifies the weights that answer in ``arm``."""
        return f"{self.base_id}+{self.adapter_id}" if arm.startswith("tuned") else self.base_id


def answer_probes(
    subject: Subject,
    probes: Sequence[tuple[str, Probe]],
    arms: Sequence[Arm],
    sampling: Sampling,
    budget: Budget,
) -> list[dict[str, Any]]:
    """Put every probe to every arm.

    Args:
        subject: What answers.
        probes: Pairs of suite name and probe.
        arms: Which arms.
        sampling: How answers are decoded.
        budget: How long answers may be, and how many are made together.

    Returns:
        Rows of the schema ``COMPLETIONS``, in the order of arms, then probes, then seeds.
    """
    seeds = sampling.seeds if sampling.temperature > 0 else sampling.seeds[:1]
    rows: list[dict[str, Any]] = []
    with progress_bar("Asking the arms", len(probes) * len(arms) * len(seeds)) as bar:
        for arm in arms:
            for seed in seeds:
                decoding = Decoding(budget.new_tokens, sampling.temperature, sampling.top_p, seed)
                rows += _answer_arm(
                    subject,
                    probes,
                    arm,
                    decoding,
                    batch_rows=budget.batch_rows,
                    advance=bar.advance,
                )
    return rows


def measure_held_out(
    subject: Subject,
    rows: Sequence[tuple[int, dict[str, Any]]],
    sources: Mapping[str, Source],
) -> list[dict[str, Any]]:
    """Measure held-out rows in the arms ``base`` and ``tuned``.

    Returns:
        Rows of the schema ``ITEM_SCORES``: bits as value, bytes as weight.
    """
    arms: tuple[Arm, ...] = ("base", "tuned")
    scores: list[dict[str, Any]] = []
    n_tokens = len(arms) * sum(len(row["input_ids"]) for _, row in rows)
    with progress_bar("Measuring held-out text", n_tokens) as bar:
        for arm in arms:
            with subject.as_arm(arm) as model:
                for batch in batches_of_rows(rows):
                    pieces = measure_rows(model, subject.tokenizer, batch, sources)
                    scores += [_score_row(subject, arm, piece) for piece in pieces]
                    bar.advance(sum(len(row["input_ids"]) for _, row in batch))
    return scores


def _score_row(subject: Subject, arm: Arm, piece: PieceCost) -> dict[str, Any]:
    return {
        "key": _key(subject.weights_of(arm), piece.item_id),
        "task": HELD_OUT_TASK,
        "item_id": piece.item_id,
        "cluster": piece.source.source,
        "arm": arm,
        "value": piece.bits,
        "weight": float(piece.n_bytes),
        "detail": json.dumps({"kind": piece.source.kind}),
    }


def _answer_arm(
    subject: Subject,
    probes: Sequence[tuple[str, Probe]],
    arm: Arm,
    decoding: Decoding,
    *,
    batch_rows: int,
    advance: Callable[[], None],
) -> list[dict[str, Any]]:
    prompts = [render_prompt(subject.tokenizer, subject.role, probe) for _, probe in probes]
    encoded = [encode_prompt(subject.tokenizer, subject.role, prompt) for prompt in prompts]
    settings = json.dumps(
        {
            "max_new_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
        }
    )
    rows: list[dict[str, Any]] = [{} for _ in probes]

    def keep(index: int, completion: Completion) -> None:
        suite, probe = probes[index]
        rows[index] = {
            "key": _key(subject.weights_of(arm), prompts[index], settings, decoding.seed),
            "suite": suite,
            "probe_id": probe.id,
            "arm": arm,
            "seed": decoding.seed,
            "prompt": prompts[index],
            "retrieved": [],
            "completion": completion.text,
            "finish": completion.finish,
            "n_prompt_tokens": len(encoded[index]),
            "n_tokens": completion.n_tokens,
            "settings": settings,
        }
        advance()

    with subject.as_arm(arm) as model:
        generate(
            model, subject.tokenizer, encoded, decoding, batch_rows=batch_rows, on_completion=keep
        )
    return rows


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
