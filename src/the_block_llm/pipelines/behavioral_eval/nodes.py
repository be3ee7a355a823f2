"""Nodes of the pipeline ``behavioral_eval``.

Modules that import torch are imported inside the nodes: `kedro registry list` and runs of other
pipelines then start seconds faster.
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
from the_block_llm.pipelines.behavioral_eval.held_out.contamination import measure_train_overlap
from the_block_llm.pipelines.behavioral_eval.held_out.passages import passages_at_cutoff
from the_block_llm.pipelines.behavioral_eval.params import BehavioralEvalParams
from the_block_llm.pipelines.behavioral_eval.probes import probe_plan as plan
from the_block_llm.pipelines.behavioral_eval.probes.placeholders import placeholder_values
from the_block_llm.pipelines.behavioral_eval.probes.suites import Suite, read_suites
from the_block_llm.pipelines.behavioral_eval.report import html_report
from the_block_llm.pipelines.behavioral_eval.tasks.history_split import (
    project_name,
    read_history_split,
)
from the_block_llm.pipelines.behavioral_eval.tasks.registry import add_train_overlap, sample_items
from the_block_llm.retrieval.citations import known_names


def check_suites(
    suite_files: Mapping[str, Callable[[], str]], params: BehavioralEvalParams
) -> list[Suite]:
    """Read and validate the suites; a full run does this first, before any slow node."""
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
    """Select the probes and fill in their placeholders."""
    from the_block_llm.models.base.quantized_loading import pick_device  # noqa: PLC0415

    cutoff = read_cutoff(repository)
    columns = ["repo", "sha", "path", "language", "size_bytes", "kept"]
    files = [row for row in snapshot_files.rows(columns) if row["sha"] == cutoff.sha]
    project = project_name(row["repo"] for row in files)
    probe_plan = plan.plan_probes(
        suites,
        resolve_profile(models, model).role,
        placeholder_values(project, files),
        params.budget_for(pick_device().type).probes,
    )
    return probe_plan.model_dump(mode="json")


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
    """Evaluate every arm, one loaded model at a time, under the memory cap of training."""
    from the_block_llm.models.base.quantized_loading import pick_device  # noqa: PLC0415
    from the_block_llm.models.factory import set_memory_fraction  # noqa: PLC0415
    from the_block_llm.pipelines.behavioral_eval.held_out.bits_per_byte import (  # noqa: PLC0415
        held_out_sources,
        sample_rows,
    )
    from the_block_llm.pipelines.behavioral_eval.runner.evaluated_model import uses_retrieval  # noqa: PLC0415
    from the_block_llm.pipelines.behavioral_eval.runner.runner import (  # noqa: PLC0415
        EvaluationInputs,
        evaluate_all,
        resolve_further_models,
    )
    from the_block_llm.retrieval.passages import PassageIndex  # noqa: PLC0415

    set_memory_fraction(pick_device(), memory_cap_gib)
    further_models = resolve_further_models(params.further_models, adapter, models)
    budget = params.budget_for(pick_device().type)
    cutoff = read_cutoff(repository)
    tables = (commits, file_changes, snapshot_files)
    rows = sample_rows(held_out_rows, documents, budget.held_out_rows, params.seed)
    passages = list(passages_at_cutoff(cutoff, *tables, budget.passage_characters))
    overlap = measure_train_overlap(documents)
    items = sample_items(read_history_split(cutoff, *tables), budget.task_items, params.seed)
    inputs = EvaluationInputs(
        plan=plan.read_probe_plan(probe_plan),
        rows=rows,
        sources=held_out_sources(documents, rows, overlap),
        items=add_train_overlap(items, overlap),
        index=PassageIndex(passages if any(map(uses_retrieval, params.arms)) else []),
    )
    profile = resolve_profile(models, model)
    answers, scores = evaluate_all(adapter, profile, further_models, inputs, params)
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
    """Score the stored answers, compare the arms and build the report, without loading a model."""
    from the_block_llm.pipelines.behavioral_eval.report import report  # noqa: PLC0415
    from the_block_llm.pipelines.behavioral_eval.report.trend import (  # noqa: PLC0415
        held_out_hash,
        save_trend_entry,
        trend_entry,
    )
    from the_block_llm.pipelines.behavioral_eval.runner.runner import adapter_hash  # noqa: PLC0415

    manifest = adapter.manifest
    scores = list(item_scores.rows())
    judged = report.build_report(
        plan.read_probe_plan(probe_plan),
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
            "training": _training_summary(manifest),
            "libraries": manifest.library_versions,
        },
    )
    entry = trend_entry(adapter.path.name, manifest.created_at, held_out_hash(scores), judged)
    return {
        **judged,
        "material": entry["material"],
        "trend": save_trend_entry(Path(params.trend_folder) / manifest.profile, entry),
    }


def render_page(behavioral_report: Mapping[str, Any]) -> str:
    """Render the report as an HTML page."""
    return html_report.render(behavioral_report)


def _training_summary(manifest: AdapterManifest) -> dict[str, Any]:
    """Return device, memory, steps, time and validation losses of the training run."""
    metrics = manifest.metrics
    names = ("steps_done", "seconds", "validation_loss_before", "validation_loss_after")
    return {
        "device": manifest.device,
        "peak_memory_gib": manifest.peak_memory_gib,
        **{name: metrics[name] for name in names if metrics.get(name) is not None},
    }
