"""Everything that one model is asked and measured on, and further models on the same."""

import gc
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from the_block_llm.errors import AdapterError
from the_block_llm.models.adapter.adapters import load_with_adapter
from the_block_llm.models.adapter.manifest import (
    WEIGHTS_NAME,
    AdapterFolder,
    list_adapters,
)
from the_block_llm.models.base.quantized_loading import load_base_model, pick_device
from the_block_llm.models.base.sources import base_revision, load_tokenizer, prepare_base_model
from the_block_llm.models.profiles import ModelProfile, ModelProfiles, resolve_profile
from the_block_llm.pipelines.behavioral_eval.held_out.bits_per_byte import Source
from the_block_llm.pipelines.behavioral_eval.params import Arm, BehavioralEvalParams, Budget
from the_block_llm.pipelines.behavioral_eval.probes.probe_plan import ProbePlan
from the_block_llm.pipelines.behavioral_eval.runner.evaluated_model import Subject
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
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Material:
    """What every arm is asked and measured on."""

    plan: ProbePlan
    rows: Sequence[tuple[int, dict[str, Any]]]
    """Held-out rows, in the tokens of the evaluated profile."""
    sources: dict[str, Source]
    items: Sequence[ChoiceItem]
    index: PassageIndex


@dataclass(frozen=True)
class FurtherModel:
    """An earlier adapter, or another profile, that is put to the same items."""

    name: str
    """``profile@version`` or ``profile@base``; its arm is called so."""
    profile: ModelProfile
    adapter: AdapterFolder | None
    same_tokens: bool
    """It reads the held-out rows as they are packed."""
    added_ids: frozenset[int] = frozenset()
    """Ids of tokens in those rows that the evaluated adapter was trained with."""

    def load(self) -> Subject:
        """Load it; whatever was loaded before should be gone by then."""
        if self.adapter is not None:
            subject = load_subject(self.adapter, self.profile)
            return replace(subject, added_ids=subject.added_ids | self.added_ids)
        location = prepare_base_model(self.profile)
        revision = base_revision(self.profile, location)
        return Subject(
            model=load_base_model(self.profile).eval(),
            tokenizer=load_tokenizer(self.profile),
            role=self.profile.role,
            base_id=f"{location}@{revision} on {pick_device().type}",
            adapter_id="none",
            added_ids=self.added_ids,
        )


def find_further_models(
    names: Sequence[str], evaluated: AdapterFolder, profiles: ModelProfiles
) -> list[FurtherModel]:
    """Find what the parameters name, before anything slow begins.

    Args:
        names: ``VERSION`` of the evaluated profile, ``PROFILE@VERSION`` or ``PROFILE@base``.
        evaluated: The adapter whose evaluation this is.
        profiles: All profiles.

    Raises:
        AdapterError: There is no such adapter, or it is the evaluated one.
        ProfileError: There is no such profile.
    """
    found = []
    for name in names:
        model, _, version = name.rpartition("@")
        profile = resolve_profile(profiles, model or evaluated.manifest.profile)
        full_name = f"{profile.name}@{version}"
        folder = evaluated.path.parent.parent / profile.name
        is_same = profile.name == evaluated.manifest.profile
        if is_same and version in (BASE, evaluated.path.name):
            raise AdapterError(
                f"behavioral_eval.further_models names {name!r}, which is evaluated anyway. "
                "Name an earlier adapter, or another profile."
            )
        known = {adapter.path.name: adapter for adapter in list_adapters(folder)}
        if version != BASE and version not in known:
            raise AdapterError(
                f"behavioral_eval.further_models names {name!r}, but there is no adapter "
                f"{version!r} of {profile.name} in {folder}. There: {', '.join(known) or 'none'}. "
                f"{profile.name}@{BASE} is the model without one."
            )
        adapter = known.get(version)
        ids = frozenset(evaluated.added_tokens.values())
        found.append(FurtherModel(full_name, profile, adapter, is_same, added_ids=ids))
    return found


def evaluate_all(
    adapter: AdapterFolder,
    profile: ModelProfile,
    further: Sequence[FurtherModel],
    material: Material,
    params: BehavioralEvalParams,
) -> tuple[Rows, Rows]:
    """Evaluate ``adapter`` and then each further model; only one is in memory at a time.

    Returns:
        Rows of the schemas ``COMPLETIONS`` and ``ITEM_SCORES``.
    """
    answers, scores = evaluate(load_subject(adapter, profile), material, params)
    for model in further:
        _let_go()
        more_answers, more_scores = evaluate_further(model.load(), model, material, params)
        answers += more_answers
        scores += more_scores
    return answers, scores


def evaluate(
    subject: Subject, material: Material, params: BehavioralEvalParams
) -> tuple[Rows, Rows]:
    """Ask and measure all arms of the evaluated model."""
    budget = params.budget_for(pick_device().type)
    folder = Path(params.result_cache_folder)
    answers = answer_probes(
        subject,
        material.plan.probes,
        params.arms,
        params.sampling,
        budget,
        material.index,
        folder,
    )
    plain: tuple[Arm, ...] = ("base", "tuned")
    scores = [
        *measure_held_out(subject, material.rows, material.sources, plain, folder),
        *measure_tasks(subject, material.items, params.arms, budget, material.index, folder),
        *_general_ability(subject, plain, budget, folder),
    ]
    return answers, scores


def evaluate_further(
    subject: Subject, model: FurtherModel, material: Material, params: BehavioralEvalParams
) -> tuple[Rows, Rows]:
    """Ask and measure one more model, without retrieval; its name is its arm.

    Another profile's model reads other tokens, so packed rows of held-out text are not for it;
    one of the other role is not asked the questions either.
    """
    budget = params.budget_for(pick_device().type)
    folder = Path(params.result_cache_folder)
    arms: tuple[Arm, ...] = ("tuned" if model.adapter is not None else "base",)
    nothing = PassageIndex([])
    answers: Rows = []
    if subject.role == material.plan.role:
        answers += answer_probes(
            subject, material.plan.probes, arms, params.sampling, budget, nothing, folder
        )
    scores: Rows = []
    if model.same_tokens:
        scores += measure_held_out(subject, material.rows, material.sources, arms, folder)
    scores += measure_tasks(subject, material.items, arms, budget, nothing, folder)
    scores += _general_ability(subject, arms, budget, folder)
    for row in (*answers, *scores):
        row["arm"] = model.name
    return answers, scores


def load_subject(adapter: AdapterFolder, profile: ModelProfile) -> Subject:
    """Load the profile's base with ``adapter`` beside it."""
    manifest = adapter.manifest
    added = adapter.added_tokens
    return Subject(
        model=load_with_adapter(profile, adapter.path),
        tokenizer=load_tokenizer(profile),
        role=profile.role,
        # The same weights answer a little differently on another kind of device.
        base_id=f"{manifest.base_model}@{manifest.base_revision} on {pick_device().type}",
        adapter_id=adapter_hash(adapter),
        tuned_tokenizer=load_tokenizer(profile, added) if added else None,
        added_ids=frozenset(added.values()),
    )


def adapter_hash(adapter: AdapterFolder) -> str:
    """Identifies the adapter's weights."""
    with (adapter.path / WEIGHTS_NAME).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _general_ability(subject: Subject, arms: tuple[Arm, ...], budget: Budget, folder: Path) -> Rows:
    n_items = budget.general_items
    questions = general_questions(n_items)
    return [
        *measure_general_text(subject, general_texts(n_items), arms, budget, folder),
        *measure_tasks(subject, questions, arms, budget, PassageIndex([]), folder),
    ]


def _let_go() -> None:
    """Give back what the model before took, so that the next one fits where it was."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
