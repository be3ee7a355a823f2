"""Evaluates an adapter and its base model, then further models, on the same items."""

import gc
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from the_block_llm.errors import AdapterError
from the_block_llm.models.adapter.adapters import load_model_with_adapter
from the_block_llm.models.adapter.manifest import (
    MANIFEST_NAME,
    WEIGHTS_NAME,
    AdapterFolder,
    list_adapters,
)
from the_block_llm.models.base.quantized_loading import load_base_model, pick_device
from the_block_llm.models.base.sources import base_revision, load_tokenizer, prepare_base_model
from the_block_llm.models.profiles import ModelProfile, ModelProfiles, resolve_profile
from the_block_llm.pipelines.behavioral_eval.held_out.bits_per_byte import DocumentSource
from the_block_llm.pipelines.behavioral_eval.params import Arm, BehavioralEvalParams, DeviceBudget
from the_block_llm.pipelines.behavioral_eval.probes.probe_plan import ProbePlan
from the_block_llm.pipelines.behavioral_eval.runner.evaluated_model import EvaluatedModel
from the_block_llm.pipelines.behavioral_eval.runner.generate import answer_probes
from the_block_llm.pipelines.behavioral_eval.runner.likelihood import (
    measure_general_text,
    measure_held_out,
    measure_tasks,
)
from the_block_llm.pipelines.behavioral_eval.tasks.choice import ChoiceItem
from the_block_llm.pipelines.behavioral_eval.tasks.general_ability import (
    general_questions,
    general_texts,
)
from the_block_llm.retrieval.passages import PassageIndex

BASE: Final = "base"
ResultRows = list[dict[str, Any]]
"""Rows of the schema ``COMPLETIONS`` or ``ITEM_SCORES``."""


@dataclass(frozen=True)
class EvaluationInputs:
    """Probes, held-out rows, task items and passages, the same for every arm."""

    plan: ProbePlan
    rows: Sequence[tuple[int, dict[str, Any]]]
    """Held-out rows with their numbers, tokenized for the evaluated profile."""
    sources: dict[str, DocumentSource]
    """Source of each document in the rows, by document id."""
    items: Sequence[ChoiceItem]
    index: PassageIndex
    """Passages for the arms with retrieval."""


@dataclass(frozen=True)
class FurtherModel:
    """An earlier adapter, or another profile, evaluated on the same items."""

    name: str
    """``profile@version`` or ``profile@base``; also the name of its arm."""
    profile: ModelProfile
    adapter: AdapterFolder | None
    has_same_tokenizer: bool
    """True if the held-out rows are packed with its tokenizer."""
    added_token_ids: frozenset[int] = frozenset()
    """Ids of the tokens in those rows that were added to train the evaluated adapter."""

    def load(self) -> EvaluatedModel:
        """Load the model; free the previous model first."""
        if self.adapter is not None:
            evaluated_model = load_evaluated_model(self.adapter, self.profile)
            return replace(
                evaluated_model,
                added_token_ids=evaluated_model.added_token_ids | self.added_token_ids,
            )
        location = prepare_base_model(self.profile)
        revision = base_revision(self.profile, location)
        return EvaluatedModel(
            model=load_base_model(self.profile).eval(),
            tokenizer=load_tokenizer(self.profile),
            role=self.profile.role,
            base_id=_base_id(location, revision),
            adapter_id="none",
            added_token_ids=self.added_token_ids,
        )


def resolve_further_models(
    names: Sequence[str], evaluated_adapter: AdapterFolder, profiles: ModelProfiles
) -> list[FurtherModel]:
    """Resolve the names in ``further_models`` without loading a model.

    Args:
        names: ``VERSION`` of the evaluated profile, ``PROFILE@VERSION`` or ``PROFILE@base``.
        evaluated_adapter: The adapter under evaluation.
        profiles: All profiles.

    Raises:
        AdapterError: There is no such adapter, or it is the evaluated one.
        ProfileError: There is no such profile.
    """
    evaluated_profile = evaluated_adapter.manifest.profile
    further_models = []
    for name in names:
        profile_name, _, version = name.rpartition("@")
        profile = resolve_profile(profiles, profile_name or evaluated_profile)
        folder = evaluated_adapter.path.parent.parent / profile.name
        is_same_profile = profile.name == evaluated_profile
        if is_same_profile and version in (BASE, evaluated_adapter.path.name):
            raise AdapterError(
                f"behavioral_eval.further_models names {name!r}, which is evaluated anyway. "
                "Name an earlier adapter, or another profile."
            )
        available = {adapter.path.name: adapter for adapter in list_adapters(folder)}
        if version != BASE and version not in available:
            raise AdapterError(
                f"behavioral_eval.further_models names {name!r}, but there is no adapter "
                f"{version!r} of {profile.name} in {folder}. "
                f"Available: {', '.join(available) or 'none'}. "
                f"{profile.name}@{BASE} is the model without an adapter."
            )
        further_models.append(
            FurtherModel(
                f"{profile.name}@{version}",
                profile,
                available.get(version),
                is_same_profile,
                added_token_ids=frozenset(evaluated_adapter.added_tokens.values()),
            )
        )
    return further_models


def evaluate_all(
    adapter: AdapterFolder,
    profile: ModelProfile,
    further_models: Sequence[FurtherModel],
    inputs: EvaluationInputs,
    params: BehavioralEvalParams,
) -> tuple[ResultRows, ResultRows]:
    """Evaluate ``adapter`` and then each further model, one loaded model at a time.

    Returns:
        Rows of the schemas ``COMPLETIONS`` and ``ITEM_SCORES``.
    """
    answers, scores = evaluate_adapter(load_evaluated_model(adapter, profile), inputs, params)
    for further_model in further_models:
        _free_memory()
        further_answers, further_scores = evaluate_further_model(
            further_model.load(), further_model, inputs, params
        )
        answers += further_answers
        scores += further_scores
    return answers, scores


def evaluate_adapter(
    evaluated_model: EvaluatedModel, inputs: EvaluationInputs, params: BehavioralEvalParams
) -> tuple[ResultRows, ResultRows]:
    """Evaluate all arms of the evaluated adapter and its base."""
    budget = params.budget_for(pick_device().type)
    folder = Path(params.result_cache_folder)
    answers = answer_probes(
        evaluated_model,
        inputs.plan.probes,
        params.arms,
        params.sampling,
        budget,
        inputs.index,
        folder,
    )
    without_retrieval: tuple[Arm, ...] = ("base", "tuned")
    scores = [
        *measure_held_out(evaluated_model, inputs.rows, inputs.sources, without_retrieval, folder),
        *measure_tasks(evaluated_model, inputs.items, params.arms, budget, inputs.index, folder),
        *_measure_general_ability(evaluated_model, without_retrieval, budget, folder),
    ]
    return answers, scores


def evaluate_further_model(
    evaluated_model: EvaluatedModel,
    further_model: FurtherModel,
    inputs: EvaluationInputs,
    params: BehavioralEvalParams,
) -> tuple[ResultRows, ResultRows]:
    """Evaluate a further model without retrieval, as an arm with the model's name.

    The packed held-out rows are skipped for a model of another profile, which has another
    tokenizer, and the probes are skipped for a model of the other role.
    """
    budget = params.budget_for(pick_device().type)
    folder = Path(params.result_cache_folder)
    arms: tuple[Arm, ...] = ("tuned" if further_model.adapter is not None else "base",)
    empty_index = PassageIndex([])
    answers: ResultRows = []
    if evaluated_model.role == inputs.plan.role:
        answers += answer_probes(
            evaluated_model, inputs.plan.probes, arms, params.sampling, budget, empty_index, folder
        )
    scores: ResultRows = []
    if further_model.has_same_tokenizer:
        scores += measure_held_out(evaluated_model, inputs.rows, inputs.sources, arms, folder)
    scores += measure_tasks(evaluated_model, inputs.items, arms, budget, empty_index, folder)
    scores += _measure_general_ability(evaluated_model, arms, budget, folder)
    for row in (*answers, *scores):
        row["arm"] = further_model.name
    return answers, scores


def load_evaluated_model(adapter: AdapterFolder, profile: ModelProfile) -> EvaluatedModel:
    """Load the base model of ``profile`` with ``adapter``."""
    manifest = adapter.manifest
    added_tokens = adapter.added_tokens
    return EvaluatedModel(
        model=load_model_with_adapter(profile, adapter.path),
        tokenizer=load_tokenizer(profile),
        role=profile.role,
        base_id=_base_id(manifest.base_model, manifest.base_revision),
        # The scale of the weights is in the configuration.
        adapter_id=f"{adapter_hash(adapter)}{_hash_settings(adapter.path)}",
        tuned_tokenizer=load_tokenizer(profile, added_tokens) if added_tokens else None,
        added_token_ids=frozenset(added_tokens.values()),
    )


def adapter_hash(adapter: AdapterFolder) -> str:
    """Return a hash of the adapter's weights."""
    with (adapter.path / WEIGHTS_NAME).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _base_id(location: str, revision: str) -> str:
    # Results of the same weights differ slightly between device types.
    return f"{location}@{revision}{_hash_settings(Path(location))} on {pick_device().type}"


def _hash_settings(folder: Path) -> str:
    """Return a hash of configuration, tokenizer and chat template; empty if it is no folder."""
    digest = hashlib.sha256()
    files = [path for path in folder.glob("*") if path.suffix in {".json", ".jinja", ".model"}]
    for path in sorted(files):
        if path.name not in {MANIFEST_NAME, "training_reports.json"}:
            digest.update(f"{path.name} {path.stat().st_size} ".encode())
            digest.update(path.read_bytes())
    return f" {digest.hexdigest()[:12]}" if files else ""


def _measure_general_ability(
    evaluated_model: EvaluatedModel, arms: tuple[Arm, ...], budget: DeviceBudget, folder: Path
) -> ResultRows:
    n_items = budget.general_items
    questions = general_questions(n_items)
    return [
        *measure_general_text(evaluated_model, general_texts(n_items), arms, budget, folder),
        *measure_tasks(evaluated_model, questions, arms, budget, PassageIndex([]), folder),
    ]


def _free_memory() -> None:
    """Free the memory of the previous model before the next one is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
