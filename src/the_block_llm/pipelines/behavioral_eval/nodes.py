"""Nodes of the pipeline ``behavioral_eval``."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from the_block_llm import schemas
from the_block_llm.datasets.parts import ParquetParts
from the_block_llm.models.adapter_manifest import WEIGHTS_NAME, AdapterFolder
from the_block_llm.models.adapters import load_with_adapter
from the_block_llm.models.base_models import load_tokenizer
from the_block_llm.models.loading import pick_device
from the_block_llm.models.profiles import ModelProfiles, resolve_profile
from the_block_llm.pipelines.behavioral_eval import evaluation, page, plan, report
from the_block_llm.pipelines.behavioral_eval.facts import repository_facts
from the_block_llm.pipelines.behavioral_eval.held_out import choose_rows, held_out_sources
from the_block_llm.pipelines.behavioral_eval.params import BehavioralEvalParams
from the_block_llm.pipelines.behavioral_eval.suites import Suite, read_suites


def check_suites(
    suite_files: Mapping[str, Callable[[], str]], params: BehavioralEvalParams
) -> list[Suite]:
    """Read the suites; in a whole run this comes first, before anything slow."""
    return read_suites(suite_files, params.suites)


def plan_probes(
    *,
    suites: list[Suite],
    snapshot_files: ParquetParts,
    model: str,
    models: ModelProfiles,
    params: BehavioralEvalParams,
) -> dict[str, Any]:
    """Fix what will be asked."""
    columns = ["repo", "path", "language", "size_bytes", "kept"]
    files = list(snapshot_files.rows(columns))
    project = PurePosixPath(files[0]["repo"]).name if files else "this project"
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
    held_out_rows: ParquetParts,
    documents: ParquetParts,
    model: str,
    models: ModelProfiles,
    params: BehavioralEvalParams,
) -> tuple[list[pa.Table], list[pa.Table]]:
    """Ask and measure every arm with one loaded model."""
    planned = plan.ProbePlan.model_validate(probe_plan)
    budget = params.budget_for(pick_device().type)
    rows = choose_rows(held_out_rows, budget.held_out_rows, params.seed)
    sources = held_out_sources(documents)
    profile = resolve_profile(models, model)
    subject = evaluation.Subject(
        model=load_with_adapter(profile, adapter.path),
        tokenizer=load_tokenizer(profile),
        role=planned.role,
        base_id=f"{adapter.manifest.base_model}@{adapter.manifest.base_revision}",
        adapter_id=_adapter_hash(adapter),
    )
    probes = [(item.suite, item.probe) for item in planned.probes]
    answers = evaluation.answer_probes(subject, probes, params.arms, params.sampling, budget)
    scores = evaluation.measure_held_out(subject, rows, sources)
    return (
        [pa.Table.from_pylist(answers, schemas.COMPLETIONS)],
        [pa.Table.from_pylist(scores, schemas.ITEM_SCORES)],
    )


def judge(
    *,
    probe_plan: Mapping[str, Any],
    completions: ParquetParts,
    item_scores: ParquetParts,
    adapter: AdapterFolder,
    params: BehavioralEvalParams,
) -> dict[str, Any]:
    """Score what is stored and say what it shows; no model is loaded."""
    manifest = adapter.manifest
    return report.build_report(
        plan.ProbePlan.model_validate(probe_plan),
        list(completions.rows()),
        item_scores.rows(),
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


def _adapter_hash(adapter: AdapterFolder) -> str:
    with (adapter.path / WEIGHTS_NAME).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
