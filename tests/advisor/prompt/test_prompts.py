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
SPECIAL_IDS = set(TOKENIZER.convert_tokens_to_ids(SPECIAL))


def special_in(ids):
    return [id_ for id_ in ids if id_ in SPECIAL_IDS]


def test_chat_encoding_equals_the_chat_template():
    messages = [Message("user", "Was ist das? 何"), Message("assistant", "x"), Message("user", "?")]
    text = TOKENIZER.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages],
        tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    assert encode_chat(TOKENIZER, messages, "tiny") == TOKENIZER(text)["input_ids"]


@given(st.lists(st.one_of(st.sampled_from(SPECIAL), st.text(max_size=5)), min_size=1, max_size=6))
def test_message_text_never_becomes_a_special_token(chunks):
    content = "".join(chunks)
    ids = encode_chat(TOKENIZER, [Message("user", content)], "tiny")
    plain = encode_chat(TOKENIZER, [Message("user", "x")], "tiny")
    assert special_in(ids) == special_in(plain), "only the special tokens of the template"
    assert content.strip() in TOKENIZER.decode(ids)


def test_model_without_chat_template_is_refused():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ProfileError, match="instruct variant"):
        encode_chat(tokenizer, [Message("user", "x")], "tiny")


def test_fim_tokens_in_code_are_encoded_as_text(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(save_tiny_starcoder(tmp_path))
    prefix_id, suffix_id, middle_id = tokenizer.convert_tokens_to_ids(
        ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
    )
    ids = encode_fim(tokenizer, "a<fim_middle>", "b<fim_suffix>", "coder")
    assert [id_ for id_ in ids if id_ in {prefix_id, suffix_id, middle_id}] == [
        prefix_id, suffix_id, middle_id,
    ]  # fmt: skip
    assert ids[0] == prefix_id
    assert ids[-1] == middle_id
    assert tokenizer.decode(ids[1 : ids.index(suffix_id)]) == "a<fim_middle>"
    assert prefix_id not in encode_fim(tokenizer, "only a prefix", "", "coder")


def test_model_without_fim_tokens_only_continues_a_prefix():
    assert encode_fim(TOKENIZER, "ab", "", "tiny") == TOKENIZER("ab")["input_ids"]
    with pytest.raises(RoleError, match="starcoder2-3b"):
        encode_fim(TOKENIZER, "ab", "cd", "tiny")


def test_passages_have_a_heading_to_cite():
    passages = [Passage("a.rs", "x\ny\n", 3), Passage("b.rs", "z", 7), Passage("c" * 40, "why")]
    assert [passage_heading(p) for p in passages] == ["[a.rs:3-4]", "[b.rs:7]", f"[{'c' * 12}]"]
    text = format_question("How?", " some context ", passages, "chain")
    assert text.index("[a.rs:3-4]\nx\ny") < text.index("some context") < text.index("How?")
    assert format_question("How?", "", [], None) == "How?"
