"""Thin calls: from git_ingest's tables to documents and packed rows."""

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
from the_block_llm.pipelines.sequence_build.document import Draft
from the_block_llm.pipelines.sequence_build.documents.corpora import (
    Corpora,
    OneCorpus,
    Tables,
    chosen_tables,
    corpora,
    count_commits,
)
from the_block_llm.pipelines.sequence_build.documents.fill_in_middle import (
    require_middle_marks,
    with_middles,
)
from the_block_llm.pipelines.sequence_build.documents.special_tokens import with_domain_marks
from the_block_llm.pipelines.sequence_build.history.commits import current_cutoff
from the_block_llm.pipelines.sequence_build.packing.jobs import pack_windows
from the_block_llm.pipelines.sequence_build.packing.mixture import excluded_by_mix
from the_block_llm.pipelines.sequence_build.packing.repository_batches import (
    RenderJob,
    batch_repositories,
    render_in_batches,
    resolve_work_folder,
    temporary_folder,
)
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

_HERE: Final = ExecutionParams()


def screen_documents(
    repository: dict[str, Any],
    commits: ParquetTable,
    file_changes: ParquetTable,
    snapshot_files: ParquetTable,
    profiles: ModelProfiles,
    model: str,
    params: SequenceBuildParams,
    execution: ExecutionParams = _HERE,
) -> dict[str, Any]:
    """Find what is held back and yet known, and what would be learned twice."""
    profile = resolve_profile(profiles, model)
    tables = chosen_tables(
        repository, commits, file_changes, snapshot_files, params.only_repository
    )
    holds_out = current_cutoff(tables.repository, params.cutoff).holds_out
    place = resolve_work_folder(commits, params.work_folder, execution)
    with temporary_folder(place) as folder:
        jobs: list[Call] = [
            (_words_of, (members, tables, profile, params, folder))
            for members in batch_repositories(tables.each)
        ]
        noted = list(ordered_map(jobs, execution, "Reading what documents say"))
        run = partial(ordered_map, execution=execution, description="Looking for leaks")
        return screen(noted, run, params.leak_similarity, holds_out=holds_out).to_json()


def _words_of(
    members: range,
    tables: Tables,
    profile: ModelProfile,
    params: SequenceBuildParams,
    folder: StorageLocation,
) -> SignatureFiles:
    found = _corpus(tables, profile, params, members)
    # A task that is begun again writes beside what its predecessor left.
    return write_signatures(found.with_histories(), folder / uuid.uuid4().hex)


def render_documents(
    repository: dict[str, Any],
    commits: ParquetTable,
    file_changes: ParquetTable,
    snapshot_files: ParquetTable,
    screening: dict[str, Any],
    profiles: ModelProfiles,
    model: str,
    params: SequenceBuildParams,
    execution: ExecutionParams = _HERE,
) -> Iterator[pa.RecordBatch | StorageLocation]:
    """Render files, commits and chats, tokenised for the model."""
    profile = resolve_profile(profiles, model)
    tables = chosen_tables(
        repository, commits, file_changes, snapshot_files, params.only_repository
    )
    if len(tables.each) == 1 and execution.engine == "local":
        return _documents_of(range(1), screening, tables, profile, params)
    return render_in_batches(
        RenderJob(_documents_of, (tables, profile, params)),
        batch_repositories(tables.each),
        screening,
        resolve_work_folder(commits, params.work_folder, execution),
        execution,
    )


def _documents_of(
    members: range,
    screening: dict[str, Any],
    tables: Tables,
    profile: ModelProfile,
    params: SequenceBuildParams,
) -> Iterator[pa.RecordBatch]:
    corpus = _corpus(tables, profile, params, members)
    shape = row_shape(params, profile)
    tokenizer = get_tokenizer(profile, domain_marks=params.domain_marks).tokenizer
    drafts = select_usable(corpus.drafts(), Screening.from_json(screening))
    return document_batches(
        _laid_out(drafts, tokenizer, profile, params, shape),
        tokenizer,
        shape.context_tokens,
        shape.stage_tokens,
        None if params.token_cache_folder is None else Path(params.token_cache_folder),
    )


def describe_rows(
    profiles: ModelProfiles, model: str, params: SequenceBuildParams
) -> dict[str, Any]:
    """Say what training must know of the rows: their sizes, added tokens and stages."""
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
    execution: ExecutionParams = _HERE,
) -> Iterator[pa.RecordBatch | StorageLocation]:
    """Pack what is learned."""
    shape = row_shape(params, resolve_profile(profiles, model))
    left_out = excluded_by_mix(documents, params.mix, shape.context_tokens)
    return _pack(documents, "train", profiles, model, params, execution, left_out)


def pack_validation(
    documents: ParquetTable,
    profiles: ModelProfiles,
    model: str,
    params: SequenceBuildParams,
    execution: ExecutionParams = _HERE,
) -> Iterator[pa.RecordBatch | StorageLocation]:
    """Pack what chooses the best checkpoint."""
    return _pack(documents, "validation", profiles, model, params, execution)


def pack_held_out(
    documents: ParquetTable,
    profiles: ModelProfiles,
    model: str,
    params: SequenceBuildParams,
    execution: ExecutionParams = _HERE,
) -> Iterator[pa.RecordBatch | StorageLocation]:
    """Pack what the evaluation measures with."""
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
    """Count what was made."""
    profile = resolve_profile(profiles, model)
    shape = row_shape(params, profile)
    # The report counts commits; the other tables are not read.
    tables = chosen_tables(repository, commits, commits, commits, params.only_repository)
    cutoff = current_cutoff(tables.repository, params.cutoff)
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
    """Draw the mix of documents, and the lengths of rows and segments, as matplotlib figures."""
    # Here, so that looking at the project's pipelines need not wait for matplotlib; for the same
    # reason no Figure is in the annotations, which Kedro and Kedro-Viz resolve.
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


def _laid_out(
    drafts: Iterator[Draft],
    tokenizer: DocumentTokenizer,
    profile: ModelProfile,
    params: SequenceBuildParams,
    shape: RowShape,
) -> Iterator[Draft]:
    """Documents in the form that the profile's role and the parameters ask for."""
    if params.domain_marks:
        drafts = map(with_domain_marks, drafts)
    if profile.role == "completion" and params.fim_share:
        require_middle_marks(tokenizer.vocabulary, profile.name)
        drafts = with_middles(
            drafts, shape.context_tokens, params.fim_share, params.fim_spm_share, params.seed
        )
    return drafts


def _corpus(
    tables: Tables,
    profile: ModelProfile,
    params: SequenceBuildParams,
    members: range | None = None,
) -> Corpora | OneCorpus:
    return corpora(
        tables,
        current_cutoff(tables.repository, params.cutoff),
        params.validation_fraction,
        members,
        with_chats=profile.role == "advisor",
        incremental_context_sequences=params.incremental_context_sequences,
        seed=params.seed,
    )
