"""Nodes of sequence_build, from the tables of git_ingest to packed rows."""

import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from the_block_llm.datasets.object_store import StorageLocation
from the_block_llm.datasets.parquet_table import ParquetTable
from the_block_llm.execution.jobs import Call
from the_block_llm.execution.ordered_map import ordered_map
from the_block_llm.execution.params import ExecutionParams
from the_block_llm.models.profiles import ModelProfile, ModelProfiles, resolve_profile
from the_block_llm.pipelines.sequence_build.dedup.leak_scan import SignatureFiles, write_signatures
from the_block_llm.pipelines.sequence_build.dedup.screening import Screening, screen, select_usable
from the_block_llm.pipelines.sequence_build.document import RenderedDocument
from the_block_llm.pipelines.sequence_build.documents.fill_in_middle import (
    apply_fim,
    require_fim_tokens,
)
from the_block_llm.pipelines.sequence_build.documents.multi_repository import (
    IngestedTables,
    MultiRepositoryCorpus,
    SingleCorpus,
    build_corpus,
    count_commits,
    select_tables,
)
from the_block_llm.pipelines.sequence_build.documents.repository_batches import (
    RenderJob,
    batch_repositories,
    render_in_batches,
    resolve_work_folder,
    temporary_folder,
)
from the_block_llm.pipelines.sequence_build.documents.special_tokens import insert_domain_tokens
from the_block_llm.pipelines.sequence_build.history.commits import require_cutoff
from the_block_llm.pipelines.sequence_build.packing.jobs import pack_windows
from the_block_llm.pipelines.sequence_build.packing.mixture import excluded_by_mix
from the_block_llm.pipelines.sequence_build.packing.windows import plan_windows
from the_block_llm.pipelines.sequence_build.params import (
    RowShape,
    SequenceBuildParams,
    row_shape,
)
from the_block_llm.pipelines.sequence_build.report import sequence_report
from the_block_llm.pipelines.sequence_build.tokenization.document_table import document_batches
from the_block_llm.pipelines.sequence_build.tokenization.document_tokenizer import DocumentTokenizer
from the_block_llm.pipelines.sequence_build.tokenization.tokenizer_loader import get_tokenizer
from the_block_llm.schemas import Split

_LOCAL_EXECUTION: Final = ExecutionParams()


def screen_documents(
    repository: dict[str, Any],
    commits: ParquetTable,
    file_changes: ParquetTable,
    snapshot_files: ParquetTable,
    profiles: ModelProfiles,
    model: str,
    params: SequenceBuildParams,
    execution: ExecutionParams = _LOCAL_EXECUTION,
) -> dict[str, Any]:
    """Find validation and held-out documents that leak into training, and duplicates."""
    profile = resolve_profile(profiles, model)
    tables = select_tables(
        repository, commits, file_changes, snapshot_files, params.only_repository
    )
    holds_out = require_cutoff(tables.repository, params.cutoff).holds_out
    parent_folder = resolve_work_folder(commits, params.work_folder, execution)
    with temporary_folder(parent_folder) as folder:
        jobs: list[Call] = [
            (_document_signatures, (repository_indices, tables, profile, params, folder))
            for repository_indices in batch_repositories(tables.repositories)
        ]
        signatures = list(ordered_map(jobs, execution, "Computing document signatures"))
        run = partial(ordered_map, execution=execution, description="Checking for leaks")
        return screen(signatures, run, params.leak_similarity, holds_out=holds_out).to_json()


def _document_signatures(
    repository_indices: range,
    tables: IngestedTables,
    profile: ModelProfile,
    params: SequenceBuildParams,
    folder: StorageLocation,
) -> SignatureFiles:
    corpus = _build_corpus(tables, profile, params, repository_indices)
    # A new folder per attempt: a retried task must not collide with files of the failed one.
    return write_signatures(corpus.documents_with_history(), folder / uuid.uuid4().hex)


def render_documents(
    repository: dict[str, Any],
    commits: ParquetTable,
    file_changes: ParquetTable,
    snapshot_files: ParquetTable,
    screening: dict[str, Any],
    profiles: ModelProfiles,
    model: str,
    params: SequenceBuildParams,
    execution: ExecutionParams = _LOCAL_EXECUTION,
) -> Iterator[pa.RecordBatch | StorageLocation]:
    """Render files, commits and chats, and tokenize them."""
    profile = resolve_profile(profiles, model)
    tables = select_tables(
        repository, commits, file_changes, snapshot_files, params.only_repository
    )
    if len(tables.repositories) == 1 and execution.engine == "local":
        return _render_batch(range(1), screening, tables, profile, params)
    return render_in_batches(
        RenderJob(_render_batch, (tables, profile, params)),
        batch_repositories(tables.repositories),
        screening,
        resolve_work_folder(commits, params.work_folder, execution),
        execution,
    )


def _render_batch(
    repository_indices: range,
    screening: dict[str, Any],
    tables: IngestedTables,
    profile: ModelProfile,
    params: SequenceBuildParams,
) -> Iterator[pa.RecordBatch]:
    corpus = _build_corpus(tables, profile, params, repository_indices)
    shape = row_shape(params, profile)
    tokenizer = get_tokenizer(profile, domain_marks=params.domain_marks).tokenizer
    documents = select_usable(corpus.documents(), Screening.from_json(screening))
    return document_batches(
        _apply_layout(documents, tokenizer, profile, params, shape),
        tokenizer,
        shape.context_tokens,
        shape.stage_tokens,
        None if params.token_cache_folder is None else Path(params.token_cache_folder),
    )


def describe_rows(
    profiles: ModelProfiles, model: str, params: SequenceBuildParams
) -> dict[str, Any]:
    """Return what training needs to know about the rows: sizes, added tokens and stages."""
    profile = resolve_profile(profiles, model)
    shape = row_shape(params, profile)
    loaded = get_tokenizer(profile, domain_marks=params.domain_marks)
    return {
        "context_tokens": shape.context_tokens,
        "overlap_tokens": shape.overlap_tokens,
        "added_tokens": loaded.added_tokens,
        "curriculum": [
            {"stage": number, **stage.model_dump()} for number, stage in enumerate(params.stages, 1)
        ],
    }


def pack_train(
    documents: ParquetTable,
    profiles: ModelProfiles,
    model: str,
    params: SequenceBuildParams,
    execution: ExecutionParams = _LOCAL_EXECUTION,
) -> Iterator[pa.RecordBatch | StorageLocation]:
    """Pack the training documents."""
    shape = row_shape(params, resolve_profile(profiles, model))
    left_out = excluded_by_mix(documents, params.mix, shape.context_tokens)
    return _pack(documents, "train", profiles, model, params, execution, left_out)


def pack_validation(
    documents: ParquetTable,
    profiles: ModelProfiles,
    model: str,
    params: SequenceBuildParams,
    execution: ExecutionParams = _LOCAL_EXECUTION,
) -> Iterator[pa.RecordBatch | StorageLocation]:
    """Pack the validation documents, with which the best checkpoint is chosen."""
    return _pack(documents, "validation", profiles, model, params, execution)


def pack_held_out(
    documents: ParquetTable,
    profiles: ModelProfiles,
    model: str,
    params: SequenceBuildParams,
    execution: ExecutionParams = _LOCAL_EXECUTION,
) -> Iterator[pa.RecordBatch | StorageLocation]:
    """Pack the held-out documents, on which the evaluation measures."""
    return _pack(documents, "held_out", profiles, model, params, execution)


def report_sequences(
    repository: dict[str, Any],
    commits: ParquetTable,
    documents: ParquetTable,
    screening: dict[str, Any],
    row_facts: dict[str, Any],
    train_rows: ParquetTable,
    validation_rows: ParquetTable,
    held_out_rows: ParquetTable,
    profiles: ModelProfiles,
    model: str,
    params: SequenceBuildParams,
) -> dict[str, Any]:
    """Count documents, rows and tokens."""
    profile = resolve_profile(profiles, model)
    shape = row_shape(params, profile)
    # Only commits are read: the other two arguments are placeholders.
    tables = select_tables(repository, commits, commits, commits, params.only_repository)
    cutoff = require_cutoff(tables.repository, params.cutoff)
    return sequence_report(
        documents,
        {"train": train_rows, "validation": validation_rows, "held_out": held_out_rows},
        cutoff,
        count_commits(tables, cutoff, params.validation_fraction),
        shape,
        Screening.from_json(screening),
        row_facts,
        int(excluded_by_mix(documents, params.mix, shape.context_tokens).sum()),
        profile.training,
    )


def plot_sequences(
    report: dict[str, Any],
    train_rows: ParquetTable,
    validation_rows: ParquetTable,
    held_out_rows: ParquetTable,
) -> tuple[Any, Any]:
    """Plot the tokens by kind and split, and the lengths of rows and segments."""
    # Imported here so that listing the pipelines does not import matplotlib. Kedro and Kedro-Viz
    # resolve annotations, so they must not name Figure either.
    from the_block_llm.pipelines.sequence_build.plots import plot_mix, plot_rows  # noqa: PLC0415

    rows = {"train": train_rows, "validation": validation_rows, "held_out": held_out_rows}
    return plot_mix(report), plot_rows(rows, report)


def _pack(
    documents: ParquetTable,
    split: Split,
    profiles: ModelProfiles,
    model: str,
    params: SequenceBuildParams,
    execution: ExecutionParams,
    left_out: npt.NDArray[np.bool_] | None = None,
) -> Iterator[pa.RecordBatch | StorageLocation]:
    profile = resolve_profile(profiles, model)
    tokenizer = get_tokenizer(profile, domain_marks=params.domain_marks).tokenizer
    shape = row_shape(params, profile)
    return pack_windows(
        documents,
        plan_windows(documents, split, shape, left_out),
        shape,
        tokenizer.byte_lengths,
        resolve_work_folder(documents, params.work_folder, execution),
        execution,
    )


def _apply_layout(
    documents: Iterator[RenderedDocument],
    tokenizer: DocumentTokenizer,
    profile: ModelProfile,
    params: SequenceBuildParams,
    shape: RowShape,
) -> Iterator[RenderedDocument]:
    """Apply special tokens and fill-in-the-middle as parameters and profile request."""
    if params.domain_marks:
        documents = map(insert_domain_tokens, documents)
    if profile.role == "completion" and params.fim_share:
        require_fim_tokens(tokenizer.vocabulary, profile.name)
        documents = apply_fim(
            documents, shape.context_tokens, params.fim_share, params.fim_spm_share, params.seed
        )
    return documents


def _build_corpus(
    tables: IngestedTables,
    profile: ModelProfile,
    params: SequenceBuildParams,
    repository_indices: range | None = None,
) -> MultiRepositoryCorpus | SingleCorpus:
    return build_corpus(
        tables,
        require_cutoff(tables.repository, params.cutoff),
        params.validation_fraction,
        repository_indices,
        with_chats=profile.role == "advisor",
        incremental_context_sequences=params.incremental_context_sequences,
        seed=params.seed,
    )
