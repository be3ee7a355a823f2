import pytest
from tests.builders.tiny_adapter import with_noise_adapter
from tests.builders.tiny_llama import byte_tokenizer, tiny_llama

from the_block_llm.pipelines.behavioral_eval.held_out.bits_per_byte import DocumentSource
from the_block_llm.pipelines.behavioral_eval.params import BehavioralEvalParams
from the_block_llm.pipelines.behavioral_eval.probes.probe_plan import ProbePlan, plan_probes
from the_block_llm.pipelines.behavioral_eval.probes.suites import Suite, parse_suite
from the_block_llm.pipelines.behavioral_eval.runner.evaluated_model import EvaluatedModel

SUITE = """\
version: 1
role: advisor
about: Questions for tests.
probes:
  - id: stale
    category: architecture
    prompt: What can go wrong with a cache in {project}?
    concepts:
      - concept: staleness
        any_of: [stale, outdated]
      - concept: memory
        any_of: [memory]
    must_not_claim:
      - concept: never wrong
        any_of: [never wrong]
    why: A cache can be wrong.
  - id: tests
    category: refactoring
    prompt: What makes a change safe?
    concepts:
      - concept: tests
        any_of: [test*]
    why: Tests do.
"""
BUDGET = {
    "probes": 8,
    "new_tokens": 8,
    "held_out_rows": 12,
    "task_items": 4,
    "general_items": 3,
    "tasks_with_retrieval": True,
    "passages": 2,
    "passage_characters": 200,
    "batch_rows": 4,
    "cache_gib": 0.1,
}


@pytest.fixture
def params(tmp_path) -> BehavioralEvalParams:
    return BehavioralEvalParams.model_validate(
        {
            "suites": ["own"],
            "budgets": {"cpu": BUDGET, "cuda": BUDGET},
            "resamples": 300,
            "calibration_shuffles": 4,
            "result_cache_folder": str(tmp_path / "cache"),
            "trend_folder": str(tmp_path / "trend"),
        }
    )


@pytest.fixture
def suite() -> Suite:
    return parse_suite("own", SUITE)


@pytest.fixture
def plan(suite: Suite) -> ProbePlan:
    return plan_probes([suite], "advisor", {"project": "chain"}, n_probes=8)


@pytest.fixture
def evaluated_model() -> EvaluatedModel:
    return EvaluatedModel(
        model=with_noise_adapter(tiny_llama().eval(), scale=0.2),
        tokenizer=byte_tokenizer(),
        role="advisor",
        base_id="tiny@1",
        adapter_id="noise",
    )


@pytest.fixture
def held_out(evaluated_model: EvaluatedModel):
    """Twelve rows of one document each, and where the documents come from."""
    rows, sources = [], {}
    for number in range(12):
        ids = evaluated_model.tokenizer(f"fn item_{number}() -> u64 {{ {number} }}")["input_ids"]
        document_id = f"d{number}"
        sources[document_id] = DocumentSource(
            "file" if number % 2 else "commit", f"source {number}"
        )
        row = {
            "input_ids": ids,
            "labels_mask": [True] * len(ids),
            "segment_lengths": [len(ids)],
            "document_ids": [document_id],
        }
        rows.append((number, row))
    return rows, sources
