"""Nodes of the pipeline ``behavioral_eval``."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa

from the_block_llm import schemas
from the_block_llm.datasets.parts import ParquetParts
from the_block_llm.models.adapter_manifest import WEIGHTS_NAME, AdapterFolder
from the_block_llm.models.adapters import load_with_adapter
from the_block_llm.models.base_models import load_tokenizer
from the_block_llm.models.loading import pick_device
from the_block_llm.models.profiles import ModelProfile, ModelProfiles, resolve_profile
from the_block_llm.pipelines.behavioral_eval import page, plan, report
from the_block_llm.pipelines.behavioral_eval.answering import answer_probes
from the_block_llm.pipelines.behavioral_eval.cutoff import read_cutoff
from the_block_llm.pipelines.behavioral_eval.facts import repository_facts
from the_block_llm.pipelines.behavioral_eval.general_ability import (
    general_questions,
    general_texts,
)
from the_block_llm.pipelines.behavioral_eval.held_out import choose_rows, held_out_sources
from the_block_llm.pipelines.behavioral_eval.measuring import (
    measure_general_text,
    measure_held_out,
    measure_tasks,
)
from the_block_llm.pipelines.behavioral_eval.params import BehavioralEvalParams
from the_block_llm.pipelines.behavioral_eval.plan import ProbePlan
from the_block_llm.pipelines.behavioral_eval.retrieval import passages_at_cutoff
from the_block_llm.pipelines.behavioral_eval.subject import Subject, retrieves
from the_block_llm.pipelines.behavioral_eval.suites import Suite, read_suites
from the_block_llm.pipelines.behavioral_eval.tasks.catalogue import draw_items
from the_block_llm.pipelines.behavioral_eval.tasks.two_times import project_name, read_two_times
from the_block_llm.retrieval.citations import known_names
from the_block_llm.retrieval.passages import PassageIndex


def check_suites(
    suite_files: Mapping[str, Callable[[], str]], params: BehavioralEvalParams
) -> list[Suite]:
    """Read the suites; in a whole run this comes first, before anything slow."""
    return read_suites(suite_files, params.suites)


def plan_probes(
    *,
    suites: list[Suite],
    repository: Mapping[str, Any],
    snapshot_files: ParquetParts,
    model: str,
    models: ModelProfiles,
    params: BehavioralEvalParams,
) -> dict[str, Any]:
    """Fix what will be asked."""
    cutoff = read_cutoff(repository)
    columns = ["repo", "sha", "path", "language", "size_bytes", "kept"]
    files = [row for row in snapshot_files.rows(columns) if row["sha"] == cutoff.sha]
    project = project_name(row["repo"] for row in files)
    chosen = plan.plan_probes(
        suites,
        resolve_profile(models, model).role,
        repository_facts(project, files),
        params.budget_for(pick_device().type).probes,
    )
    return chosen.model_dump(mode="json")


def evaluate_arms(
    *,
    probe_plan: Mapping[str, Any],
    adapter: AdapterFolder,
    repository: Mapping[str, Any],
    commits: ParquetParts,
    file_changes: ParquetParts,
    snapshot_files: ParquetParts,
    held_out_rows: ParquetParts,
    documents: ParquetParts,
    model: str,
    models: ModelProfiles,
    params: BehavioralEvalParams,
) -> tuple[list[pa.Table], list[pa.Table]]:
    """Ask and measure every arm with one loaded model."""
    planned = ProbePlan.model_validate(probe_plan)
    budget = params.budget_for(pick_device().type)
    cutoff = read_cutoff(repository)
    tables = (commits, file_changes, snapshot_files)
    rows = choose_rows(held_out_rows, documents, budget.held_out_rows, params.seed)
    items = draw_items(read_two_times(cutoff, *tables), budget.task_items, params.seed)
    passages = list(passages_at_cutoff(cutoff, *tables, budget.passage_characters))
    index = PassageIndex(passages if any(map(retrieves, params.arms)) else [])
    subject = _load_subject(adapter, planned.role, resolve_profile(models, model))
    folder = Path(params.journal_folder)
    answers = answer_probes(
        subject, planned.probes, params.arms, params.sampling, budget, index, folder
    )
    scores = [
        *measure_held_out(subject, rows, held_out_sources(documents, rows), folder),
        *measure_tasks(subject, items, params.arms, budget, index, folder),
        *measure_general_text(subject, general_texts(budget.general_items), folder),
        *measure_tasks(
            subject,
            general_questions(budget.general_items),
            ("base", "tuned"),
            budget,
            index,
            folder,
        ),
    ]
    return (
        [pa.Table.from_pylist(answers, schemas.COMPLETIONS)],
        [pa.Table.from_pylist(scores, schemas.ITEM_SCORES)],
    )


def judge(
    *,
    probe_plan: Mapping[str, Any],
    completions: ParquetParts,
    item_scores: ParquetParts,
    snapshot_files: ParquetParts,
    commits: ParquetParts,
    adapter: AdapterFolder,
    params: BehavioralEvalParams,
) -> dict[str, Any]:
    """Score what is stored and say what it shows; no model is loaded."""
    manifest = adapter.manifest
    return report.build_report(
        ProbePlan.model_validate(probe_plan),
        list(completions.rows()),
        list(item_scores.rows()),
        known_names(snapshot_files.rows(["path", "text"]), commits.rows(["sha"])),
        params,
        provenance={
            "profile": manifest.profile,
            "base_model": PurePosixPath(manifest.base_model).name,
            "base_revision": manifest.base_revision,
            "adapter": adapter.path.name,
            "adapter_weights": _adapter_hash(adapter),
            "trained_at": manifest.created_at,
            "trained_commit": manifest.git_commit,
            "data": manifest.data_hashes,
            "libraries": manifest.library_versions,
        },
    )


def render_page(behavioral_report: Mapping[str, Any]) -> str:
    """The report as a page to read."""
    return page.render(behavioral_report)


def _load_subject(
    adapter: AdapterFolder, role: Literal["advisor", "completion"], profile: ModelProfile
) -> Subject:
    manifest = adapter.manifest
    added = adapter.added_tokens
    return Subject(
        model=load_with_adapter(profile, adapter.path),
        tokenizer=load_tokenizer(profile),
        role=role,
        # The same weights answer a little differently on another kind of device.
        base_id=f"{manifest.base_model}@{manifest.base_revision} on {pick_device().type}",
        adapter_id=_adapter_hash(adapter),
        tuned_tokenizer=load_tokenizer(profile, added) if added else None,
        added_ids=frozenset(added.values()),
    )


def _adapter_hash(adapter: AdapterFolder) -> str:
    with (adapter.path / WEIGHTS_NAME).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
