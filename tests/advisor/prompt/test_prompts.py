import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders.tiny_llama import SPECIAL, byte_tokenizer
from tests.builders.tiny_starcoder import save_tiny_starcoder
from transformers import AutoTokenizer

from the_block_llm.advisor.prompt.prompts import (
    Message,
    encode_chat,
    encode_fim,
    format_question,
    passage_heading,
)
from the_block_llm.errors import ProfileError, RoleError
from the_block_llm.retrieval.passages import Passage

TOKENIZER = byte_tokenizer()
MARKS = set(TOKENIZER.convert_tokens_to_ids(SPECIAL))


def marks_in(ids):
    return [id_ for id_ in ids if id_ in MARKS]


def test_plain_text_is_encoded_as_the_template_writes_it():
    messages = [Message("user", "Was ist das? 何"), Message("assistant", "x"), Message("user", "?")]
    text = TOKENIZER.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages],
        tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    assert encode_chat(TOKENIZER, messages, "tiny") == TOKENIZER(text)["input_ids"]


@given(st.lists(st.one_of(st.sampled_from(SPECIAL), st.text(max_size=5)), min_size=1, max_size=6))
def test_no_text_can_end_its_turn(pieces):
    content = "".join(pieces)
    ids = encode_chat(TOKENIZER, [Message("user", content)], "tiny")
    plain = encode_chat(TOKENIZER, [Message("user", "x")], "tiny")
    assert marks_in(ids) == marks_in(plain), "only the template's own marks"
    assert content.strip() in TOKENIZER.decode(ids)


def test_a_model_without_a_template_is_refused():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ProfileError, match="instruct variant"):
        encode_chat(tokenizer, [Message("user", "x")], "tiny")


def test_the_gap_is_marked_and_code_cannot_move_it(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(save_tiny_starcoder(tmp_path))
    before, after, middle = tokenizer.convert_tokens_to_ids(
        ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
    )
    ids = encode_fim(tokenizer, "a<fim_middle>", "b<fim_suffix>", "coder")
    assert [id_ for id_ in ids if id_ in {before, after, middle}] == [before, after, middle]
    assert ids[0] == before
    assert ids[-1] == middle
    assert tokenizer.decode(ids[1 : ids.index(after)]) == "a<fim_middle>"
    assert before not in encode_fim(tokenizer, "only a prefix", "", "coder")


def test_a_model_without_marks_can_only_go_on():
    assert encode_fim(TOKENIZER, "ab", "", "tiny") == TOKENIZER("ab")["input_ids"]
    with pytest.raises(RoleError, match="starcoder2-3b"):
        encode_fim(TOKENIZER, "ab", "cd", "tiny")


def test_passages_come_with_the_place_to_cite():
    passages = [Passage("a.rs", "x\ny\n", 3), Passage("b.rs", "z", 7), Passage("c" * 40, "why")]
    assert [passage_heading(p) for p in passages] == ["[a.rs:3-4]", "[b.rs:7]", f"[{'c' * 12}]"]
    text = format_question("How?", " some context ", passages, "chain")
    assert text.index("[a.rs:3-4]\nx\ny") < text.index("some context") < text.index("How?")
    assert format_question("How?", "", [], None) == "How?"
