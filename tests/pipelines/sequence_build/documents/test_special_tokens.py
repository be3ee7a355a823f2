import copy
from typing import Any

import pytest
from tests.builders.documents import make_document, make_file_document

from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.sequence_build.document import Segment
from the_block_llm.pipelines.sequence_build.documents.special_tokens import (
    add_domain_tokens,
    insert_domain_tokens,
)
from the_block_llm.pipelines.sequence_build.tokenization.document_tokenizer import DocumentTokenizer

PATCH_TEXT = (
    "Say why\n\n<|code_start|>--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n<|code_end|><|endoftext|>"
)
CASES = {
    "code": (
        make_file_document("x = 1\n"),
        "File a.py:\n\n<|code_start|>x = 1\n<|code_end|><|endoftext|>",
        "x = 1\n<|code_end|><|endoftext|>",
    ),
    "prose": (
        make_file_document("# Title\n", "a.md"),
        "File a.md:\n\n# Title\n<|endoftext|>",
        "# Title\n<|endoftext|>",
    ),
    "patch": (
        make_document(
            "commit", "c0ffee", Segment("Commit c0ffee:\n\n", train=False),
            Segment("Say why\n\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n", train=True),
        ),
        "Commit c0ffee:\n\n" + PATCH_TEXT,
        "Say why\n\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n<|code_end|><|endoftext|>",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_code_is_marked_and_generated_tokens_are_targets(
    name: str, smollm2: Any, smollm2_profile: ModelProfile
) -> None:
    plain, expected_text, expected_targets = CASES[name]
    tokenizer = copy.deepcopy(smollm2)
    assert list(add_domain_tokens(tokenizer).values()) == [49152, 49153, 49154, 49155]
    [document] = DocumentTokenizer(tokenizer, smollm2_profile).encode([insert_domain_tokens(plain)])
    assert tokenizer.decode(document.input_ids) == expected_text
    assert tokenizer.decode(document.input_ids[document.labels_mask]) == expected_targets


def test_question_and_answer_are_marked(smollm2: Any, smollm2_profile: ModelProfile) -> None:
    tokenizer = copy.deepcopy(smollm2)
    add_domain_tokens(tokenizer)
    # A special token written in a question is ordinary text.
    question = Segment("What is <|analysis|>?", train=False)
    chat = make_document("chat", "a.py", question, Segment("A mark.", train=True))
    [document] = DocumentTokenizer(tokenizer, smollm2_profile).encode([insert_domain_tokens(chat)])
    assert "user\n<|question|>What is <|analysis|>?" in tokenizer.decode(document.input_ids)
    targets = tokenizer.decode(document.input_ids[document.labels_mask])
    assert targets == "<|analysis|>A mark.<|im_end|>"
    ids = document.input_ids.tolist()
    assert ids.count(tokenizer.convert_tokens_to_ids("<|analysis|>")) == 1


def test_tokens_in_the_vocabulary_are_not_added_again(smollm2: Any) -> None:
    tokenizer = copy.deepcopy(smollm2)
    assert len(add_domain_tokens(tokenizer)) == 4
    assert add_domain_tokens(tokenizer) == {}
