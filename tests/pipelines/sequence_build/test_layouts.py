"""Domain marks, middles that come last, curriculum: what documents look like to a model."""

import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders.tiny_starcoder import save_tiny_starcoder

from the_block_llm.datasets.parquet_table import save_table
from the_block_llm.errors import ParameterError, ProfileError
from the_block_llm.models.base.sources import load_tokenizer
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.sequence_build.document import Draft, Segment
from the_block_llm.pipelines.sequence_build.documents.fill_in_middle import with_middles
from the_block_llm.pipelines.sequence_build.documents.special_tokens import (
    add_domain_marks,
    with_domain_marks,
)
from the_block_llm.pipelines.sequence_build.packing.rows import pack_window
from the_block_llm.pipelines.sequence_build.packing.windows import plan_windows
from the_block_llm.pipelines.sequence_build.params import RowShape, SequenceBuildParams, row_shape
from the_block_llm.pipelines.sequence_build.tokenization.document_table import document_batches
from the_block_llm.pipelines.sequence_build.tokenization.document_tokenizer import DocumentTokenizer
from the_block_llm.schemas import DOCUMENTS, ROWS

AT = datetime(2026, 1, 1, tzinfo=UTC)


def draft(kind: Any, source: str, *segments: Segment, split: Any = "train") -> Draft:
    return Draft(f"{kind}/{source}", kind, split, source, AT, segments)


def a_file(text: str, source: str = "a.py", split: Any = "train") -> Draft:
    head = Segment(f"File {source}:\n\n", train=False)
    return draft("file", source, head, Segment(text, train=True), split=split)


@pytest.fixture
def starcoder(tmp_path: Path) -> ModelProfile:
    from tests.pipelines.sequence_build.conftest import profile

    return profile(
        save_tiny_starcoder(tmp_path / "starcoder"), name="starcoder", role="completion",
        pad_token="<fim_pad>", stop_tokens=("<|endoftext|>",),
    )  # fmt: skip


PATCHED = (
    "Say why\n\n<|code_start|>--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n<|code_end|><|endoftext|>"
)
MARKED = {
    "code": (
        a_file("x = 1\n"),
        "File a.py:\n\n<|code_start|>x = 1\n<|code_end|><|endoftext|>",
        "x = 1\n<|code_end|><|endoftext|>",
    ),
    "prose": (
        a_file("# Title\n", "a.md"),
        "File a.md:\n\n# Title\n<|endoftext|>",
        "# Title\n<|endoftext|>",
    ),
    "patch": (
        draft(
            "commit", "c0ffee", Segment("Commit c0ffee:\n\n", train=False),
            Segment("Say why\n\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n", train=True),
        ),
        "Commit c0ffee:\n\n" + PATCHED,
        "Say why\n\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n<|code_end|><|endoftext|>",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MARKED)
def test_marks_stand_around_code_and_what_a_model_writes_is_learned(
    name: str, smollm2: Any, smollm2_profile: ModelProfile
) -> None:
    plain, written, learned = MARKED[name]
    tokenizer = copy.deepcopy(smollm2)
    assert list(add_domain_marks(tokenizer).values()) == [49152, 49153, 49154, 49155]
    [document] = DocumentTokenizer(tokenizer, smollm2_profile).encode([with_domain_marks(plain)])
    assert tokenizer.decode(document.input_ids) == written
    assert tokenizer.decode(document.input_ids[document.labels_mask]) == learned


def test_a_question_and_its_answer_are_marked(smollm2: Any, smollm2_profile: ModelProfile) -> None:
    tokenizer = copy.deepcopy(smollm2)
    add_domain_marks(tokenizer)
    # The mark written in a question is text, not the mark.
    asked = Segment("What is <|analysis|>?", train=False)
    chat = draft("chat", "a.py", asked, Segment("A mark.", train=True))
    [document] = DocumentTokenizer(tokenizer, smollm2_profile).encode([with_domain_marks(chat)])
    assert "user\n<|question|>What is <|analysis|>?" in tokenizer.decode(document.input_ids)
    learned = tokenizer.decode(document.input_ids[document.labels_mask])
    assert learned == "<|analysis|>A mark.<|im_end|>"
    ids = document.input_ids.tolist()
    assert ids.count(tokenizer.convert_tokens_to_ids("<|analysis|>")) == 1


def test_marks_that_a_tokenizer_has_are_not_added_again(smollm2: Any) -> None:
    tokenizer = copy.deepcopy(smollm2)
    assert len(add_domain_marks(tokenizer)) == 4
    assert add_domain_marks(tokenizer) == {}


def middle_last(text: str, spm_share: float, context_tokens: int = 400) -> list[Draft]:
    return list(with_middles([a_file(text)], context_tokens, 1.0, spm_share, seed=1))


TEXT = "import os\n\n\ndef f():\n    return 1\n\n\ndef g():\n    return 2\n"


def test_prefix_suffix_middle(starcoder: ModelProfile) -> None:
    [document] = middle_last(TEXT, spm_share=0)
    tokenizer = load_tokenizer(starcoder)
    [ids] = DocumentTokenizer(tokenizer, starcoder).encode([document])
    written = tokenizer.decode(ids.input_ids)
    prefix, rest = written.removeprefix("<fim_prefix>File a.py:\n\n").split("<fim_suffix>")
    suffix, middle = rest.removesuffix("<|endoftext|>").split("<fim_middle>")
    assert prefix + middle + suffix == TEXT
    assert middle
    learned = tokenizer.decode(ids.input_ids[ids.labels_mask])
    assert learned == f"{prefix}{suffix}{middle}<|endoftext|>"  # marks and path are shown only


def test_suffix_prefix_middle(starcoder: ModelProfile) -> None:
    [document] = middle_last(TEXT, spm_share=1)
    tokenizer = load_tokenizer(starcoder)
    [ids] = DocumentTokenizer(tokenizer, starcoder).encode([document])
    written = tokenizer.decode(ids.input_ids)
    suffix, rest = written.removeprefix("<fim_prefix><fim_suffix>").split("<fim_middle>")
    body = rest.removeprefix("File a.py:\n\n").removesuffix("<|endoftext|>")
    assert body + suffix == TEXT


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.text(st.sampled_from("ab é👍"), max_size=30), min_size=1, max_size=40),
    spm=st.floats(0, 1),
)
def test_chunks_hold_every_character_once(lines: list[str], spm: float) -> None:
    text = "\n".join(lines) or "x"
    documents = middle_last(text, spm, context_tokens=24)
    body = "".join(
        segment.text for document in documents for segment in document.segments if segment.train
    )
    assert sorted(body) == sorted(text)
    plain = [document.instead or document for document in documents]
    assert "".join(s.text for d in plain for s in d.segments if s.train) == text


def test_a_middle_that_does_not_fit_its_row_gives_way_to_the_plain_text(
    starcoder: ModelProfile,
) -> None:
    # One token a byte: chunks sized for 2.5 bytes a token are far too long.
    documents = middle_last(TEXT * 20, spm_share=0.5, context_tokens=128)
    tokenizer = DocumentTokenizer(load_tokenizer(starcoder), starcoder)
    [batch] = document_batches(documents, tokenizer, 128)
    ids = batch["document_id"].to_pylist()
    assert ids
    long_ones = [n > 128 for n in batch["n_tokens"].to_pylist()]
    whole = [id_.startswith("file-in-the-middle/") for id_ in ids]
    assert not [1 for is_long, is_whole in zip(long_ones, whole, strict=True) if is_long & is_whole]


def test_held_out_files_stay_plain() -> None:
    held_out = a_file(TEXT, split="held_out")
    assert list(with_middles([held_out], 400, 1.0, 0.5, seed=1)) == [held_out]


def test_a_tokenizer_without_middle_marks_is_refused(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    from tests.pipelines.sequence_build.test_nodes import Run

    completion = smollm2_profile.model_copy(update={"role": "completion"})
    with pytest.raises(ProfileError, match=r"lacks <fim_prefix>, <fim_suffix>.*fim_share"):
        Run(tmp_path, long_story.tables(tmp_path, 0.85), completion)


def test_a_completion_model_learns_middles_from_a_repository(
    tmp_path: Path, long_story: Any, starcoder: ModelProfile
) -> None:
    from tests.pipelines.sequence_build.test_nodes import Run

    run = Run(tmp_path, long_story.tables(tmp_path, 0.85), starcoder, fim_share=1.0,
              context_tokens=8192)  # fmt: skip
    assert run.report["train_middle_last_documents"] > 0
    assert run.report["train_longer_than_a_row_documents"] == 0


def test_a_curriculum_has_rows_of_its_stages_lengths(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    from tests.pipelines.sequence_build.test_nodes import Run

    stages = [{"context_tokens": n} for n in (128, 256, 512)]
    run = Run(tmp_path, long_story.tables(tmp_path, 0.85), smollm2_profile, curriculum=stages)
    rows = list(run.rows["train"].rows(["stage", "n_tokens", "document_ids"]))
    assert [row["stage"] for row in rows] == sorted(row["stage"] for row in rows)
    assert {row["stage"] for row in rows} >= {2, 3}  # made-up words are dense
    assert all(row["n_tokens"] <= (128, 256, 512)[row["stage"] - 1] for row in rows)
    assert {row["stage"] for row in run.rows["held_out"].rows(["stage"])} == {0}
    assert run.row_facts["curriculum"][2] == {"stage": 3, "context_tokens": 512, "epochs": 2}
    # Nothing is lost: a document is in the rows of one stage.
    wanted = {
        row["document_id"]
        for row in run.documents.rows(["document_id", "split", "kind", "n_tokens"])
        if row["split"] == "train" and not (row["kind"] == "chat" and row["n_tokens"] > 512)
    }
    assert {name for row in rows for name in row["document_ids"]} == wanted


def test_the_three_stages_are_the_default_and_bad_ones_are_refused(
    smollm2_profile: ModelProfile,
) -> None:
    params = SequenceBuildParams(curriculum=True)
    shape = row_shape(params, smollm2_profile)
    assert (shape.context_tokens, shape.stage_tokens) == (1024, (256, 512, 1024))
    with pytest.raises(ParameterError, match="last stage .* 1024 tokens.*is 512"):
        row_shape(SequenceBuildParams(curriculum=True, context_tokens=512), smollm2_profile)
    with pytest.raises(ValueError, match="longer than the last"):
        SequenceBuildParams.model_validate(
            {"curriculum": [{"context_tokens": 512}, {"context_tokens": 256}]}
        )


def test_chats_longer_than_a_row_are_counted(
    tmp_path: Path, long_story: Any, smollm2_profile: ModelProfile
) -> None:
    from tests.pipelines.sequence_build.test_nodes import Run

    run = Run(tmp_path, long_story.tables(tmp_path, 0.85), smollm2_profile, context_tokens=90,
              overlap_tokens=16)  # fmt: skip
    too_long = {
        row["document_id"]
        for row in run.documents.rows(["document_id", "kind", "split", "n_tokens"])
        if row["kind"] == "chat" and row["split"] == "train" and row["n_tokens"] > 90
    }
    assert run.report["train_longer_than_a_row_documents"] == len(too_long) > 0
    in_rows = {n for row in run.rows["train"].rows(["document_ids"]) for n in row["document_ids"]}
    assert not too_long & in_rows
    assert any("longer than a row of 90 tokens" in w for w in run.report["warnings"])


def test_rows_may_hold_a_whole_context_of_131072_tokens(
    tmp_path: Path, smollm2: Any, smollm2_profile: ModelProfile
) -> None:
    tokenizer = DocumentTokenizer(copy.deepcopy(smollm2), smollm2_profile)
    texts = [f"def f{n}(x):\n    return x + {n}\n\n" * 12_000 for n in range(2)]
    written = [a_file(text, f"pkg/{n}.py") for n, text in enumerate(texts)]
    documents = save_table(tmp_path / "d", DOCUMENTS, document_batches(written, tokenizer, 131_072))
    shape = RowShape(131_072, 1024)
    [window] = plan_windows(documents, "train", shape)
    rows = save_table(
        tmp_path / "r", ROWS, pack_window(documents, window, shape, tokenizer.byte_lengths)
    )
    lengths = [row["n_tokens"] for row in rows.rows(["n_tokens"])]
    assert max(lengths) == 131_072
    assert len(lengths) == 3  # two texts of 168,000 tokens
    learned = sum(sum(row["labels_mask"]) for row in rows.rows(["labels_mask"]))
    assert learned == sum(sum(row["labels_mask"]) for row in documents.rows(["labels_mask"]))


def test_the_number_of_workers_changes_nothing(
    smollm2: Any, smollm2_profile: ModelProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = DocumentTokenizer(copy.deepcopy(smollm2), smollm2_profile)
    written = [a_file(f"x{n} = {n}\n" * n, f"{n}.py") for n in range(60)]
    made = []
    for parallel in ("false", "true"):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallel)
        made.append(list(document_batches(written, tokenizer, 256)))
    assert made[0] == made[1]
