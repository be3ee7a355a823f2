"""Nodes of the pipeline ``behavioral_eval``.

What imports torch is imported where it is used: `kedro registry list` and runs of other
pipelines need not wait seconds for it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from the_block_llm import schemas
from the_block_llm.datasets.cutoff import read_cutoff
from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.models.adapter.manifest import AdapterFolder, AdapterManifest
from the_block_llm.models.profiles import ModelProfiles, resolve_profile
from the_block_llm.pipelines.behavioral_eval.held_out.contamination import familiar_held_out
from the_block_llm.pipelines.behavioral_eval.held_out.passages import passages_at_cutoff
from the_block_llm.pipelines.behavioral_eval.params import BehavioralEvalParams
from the_block_llm.pipelines.behavioral_eval.probes import probe_plan as plan
from the_block_llm.pipelines.behavioral_eval.probes.placeholders import repository_facts
from the_block_llm.pipelines.behavioral_eval.probes.probe_plan import ProbePlan
from the_block_llm.pipelines.behavioral_eval.probes.suites import Suite, read_suites
from the_block_llm.pipelines.behavioral_eval.report import html_report
from the_block_llm.pipelines.behavioral_eval.tasks.history_split import project_name, read_two_times
from the_block_llm.pipelines.behavioral_eval.tasks.registry import draw_items, mark_familiar
from the_block_llm.retrieval.citations import known_names


def check_suites(
    suite_files: Mapping[str, Callable[[], str]], params: BehavioralEvalParams
) -> list[Suite]:
    """Read the suites; in a whole run this comes first, before anything slow."""
    return read_suites(suite_files, params.suites)


def plan_probes(
    *,
    suites: list[Suite],
    repository: Mapping[str, Any],
    snapshot_files: ParquetTable,
    model: str,
    models: ModelProfiles,
    params: BehavioralEvalParams,
) -> dict[str, Any]:
    """Fix what will be asked."""
    from the_block_llm.models.base.quantized_loading import pick_device  # noqa: PLC0415

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
    commits: ParquetTable,
    file_changes: ParquetTable,
    snapshot_files: ParquetTable,
    held_out_rows: ParquetTable,
    documents: ParquetTable,
    model: str,
    models: ModelProfiles,
    memory_cap_gib: float | None,
    params: BehavioralEvalParams,
) -> tuple[list[pa.Table], list[pa.Table]]:
    """Ask and measure every arm; one model is loaded at a time, under the cap of training."""
    from the_block_llm.models.base.quantized_loading import pick_device  # noqa: PLC0415
    from the_block_llm.models.factory import set_memory_fraction  # noqa: PLC0415
    from the_block_llm.pipelines.behavioral_eval.held_out.bits_per_byte import (  # noqa: PLC0415
        choose_rows,
        held_out_sources,
    )
    from the_block_llm.pipelines.behavioral_eval.runner.evaluated_model import retrieves  # noqa: PLC0415
    from the_block_llm.pipelines.behavioral_eval.runner.runner import (  # noqa: PLC0415
        Material,
        evaluate_all,
        find_further_models,
    )
    from the_block_llm.retrieval.passages import PassageIndex  # noqa: PLC0415

    set_memory_fraction(pick_device(), memory_cap_gib)
    further = find_further_models(params.further_models, adapter, models)
    budget = params.budget_for(pick_device().type)
    cutoff = read_cutoff(repository)
    tables = (commits, file_changes, snapshot_files)
    rows = choose_rows(held_out_rows, documents, budget.held_out_rows, params.seed)
    passages = list(passages_at_cutoff(cutoff, *tables, budget.passage_characters))
    familiar = familiar_held_out(documents)
    items = draw_items(read_two_times(cutoff, *tables), budget.task_items, params.seed)
    material = Material(
        plan=ProbePlan.model_validate(probe_plan),
        rows=rows,
        sources=held_out_sources(documents, rows, familiar),
        items=mark_familiar(items, familiar),
        index=PassageIndex(passages if any(map(retrieves, params.arms)) else []),
    )
    profile = resolve_profile(models, model)
    answers, scores = evaluate_all(adapter, profile, further, material, params)
    return (
        [pa.Table.from_pylist(answers, schemas.COMPLETIONS)],
        [pa.Table.from_pylist(scores, schemas.ITEM_SCORES)],
    )


def judge(
    *,
    probe_plan: Mapping[str, Any],
    completions: ParquetTable,
    item_scores: ParquetTable,
    snapshot_files: ParquetTable,
    commits: ParquetTable,
    adapter: AdapterFolder,
    params: BehavioralEvalParams,
) -> dict[str, Any]:
    """Score what is stored and say what it shows; no model is loaded."""
    from the_block_llm.pipelines.behavioral_eval.report import report  # noqa: PLC0415
    from the_block_llm.pipelines.behavioral_eval.report.trend import (  # noqa: PLC0415
        material_hash,
        remember,
        trend_entry,
    )
    from the_block_llm.pipelines.behavioral_eval.runner.runner import adapter_hash  # noqa: PLC0415

    manifest = adapter.manifest
    scores = list(item_scores.rows())
    judged = report.build_report(
        ProbePlan.model_validate(probe_plan),
        list(completions.rows()),
        scores,
        known_names(snapshot_files.rows(["path", "text"]), commits.rows(["sha"])),
        params,
        provenance={
            "profile": manifest.profile,
            "base_model": PurePosixPath(manifest.base_model).name,
            "base_revision": manifest.base_revision,
            "adapter": adapter.path.name,
            "adapter_weights": adapter_hash(adapter),
            "trained_at": manifest.created_at,
            "trained_commit": manifest.git_commit,
            "data": manifest.data_hashes,
            "training": _training_facts(manifest),
            "libraries": manifest.library_versions,
        },
    )
    entry = trend_entry(adapter.path.name, manifest.created_at, material_hash(scores), judged)
    return {
        **judged,
        "material": entry["material"],
        "trend": remember(Path(params.trend_folder) / manifest.profile, entry),
    }


def render_page(behavioral_report: Mapping[str, Any]) -> str:
    """The report as a page to read."""
    return html_report.render(behavioral_report)


def _training_facts(manifest: AdapterManifest) -> dict[str, Any]:
    """What a reader of the report wants to know of the training."""
    metrics = manifest.metrics
    names = ("steps_done", "seconds", "validation_loss_before", "validation_loss_after")
    return {
        "device": manifest.device,
        "peak_memory_gib": manifest.peak_memory_gib,
        **{name: metrics[name] for name in names if metrics.get(name) is not None},
    }
