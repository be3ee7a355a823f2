"""Vectors of added tokens: nothing else of embedding and head is trained, copied or changed."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from tests.models.layerwise.small_models import (
    ADDED_TOKENS,
    load_model,
    loss_and_grads,
    random_rows,
    save_profiles,
)
from torch.nn import functional
from transformers import AutoModelForCausalLM

from the_block_llm.errors import ProfileError
from the_block_llm.models.adapter.added_embedding_layers import active_added_embeddings
from the_block_llm.models.adapter.added_embeddings import first_added_id
from the_block_llm.models.base.sources import load_tokenizer
from the_block_llm.models.base.special_tokens import add_tokens
from the_block_llm.models.collate import collate_rows
from the_block_llm.models.inference.generation import Completion, SamplingParams, generate
from the_block_llm.models.inference.likelihood import token_nll
from the_block_llm.models.profiles import ModelProfile

MARKED = random_rows([[24, 11]], seed=3, first_id=240, n_ids=263)
NAMES = ["tied", "untied", "spare rows"]


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelProfile]:
    return save_profiles(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_a_model_with_larger_matrices(
    profiles: dict[str, ModelProfile], name: str
) -> None:
    ours = load_model(profiles[name], None, ADDED_TOKENS)
    loss, gradients = loss_and_grads(ours, MARKED)
    model = ours.model.get_base_model()
    rows = active_added_embeddings(model)
    assert rows is not None
    assert len(rows.parameters) == (1 if name == "tied" else 2)
    # The same, written out: whole matrices that autograd knows, 263 rows each.
    embedding, head = (
        torch.cat([layer.weight.detach()[:260], own.detach()]).requires_grad_()
        for layer, own in (
            (model.get_input_embeddings(), rows.embedding),
            (model.get_output_embeddings(), rows.head),
        )
    )
    batch = collate_rows(MARKED, 3)
    states = model.get_decoder()(
        inputs_embeds=functional.embedding(batch["input_ids"], embedding),
        position_ids=batch["position_ids"],
        use_cache=False,
    ).last_hidden_state
    logits = functional.linear(states, head)[0, :-1]
    expected = functional.cross_entropy(logits, batch["labels"][0, 1:], reduction="sum") / 11
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    if name == "tied":
        wanted = [(embedding.grad + head.grad)[260:]]  # type: ignore[operator]
    else:
        wanted = [embedding.grad[260:], head.grad[260:]]  # type: ignore[index]
    for own, gradient in zip(rows.parameters, wanted, strict=True):
        torch.testing.assert_close(own.grad, gradient, rtol=1e-5, atol=1e-5)
    assert sum("rows" in key for key in gradients) == len(rows.parameters)


@pytest.mark.parametrize("name", NAMES)
def test_saved_rows_come_back_and_plain_peft_reads_them_over_a_resized_base(
    profiles: dict[str, ModelProfile], name: str, tmp_path: Path
) -> None:
    ours = load_model(profiles[name], None, ADDED_TOKENS)
    rows = active_added_embeddings(ours.model)
    assert rows is not None
    for number, own in enumerate(rows.parameters):
        own.data = torch.randn(own.shape, generator=torch.Generator().manual_seed(number))
    ours.model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    size = sum(
        tensor.numel() for tensor in load_file(tmp_path / "adapter_model.safetensors").values()
    )
    assert size < 60_000, "the matrices are not in it"
    batch = collate_rows(MARKED, 3)
    with torch.no_grad():
        ours.model.eval()
        expected = token_nll(ours.model, batch)
        fresh = load_model(profiles[name], None, ADDED_TOKENS)
        set_peft_model_state_dict(fresh.model, load_file(tmp_path / "adapter_model.safetensors"))
        assert torch.equal(token_nll(fresh.model.eval(), batch), expected)
        plain = AutoModelForCausalLM.from_pretrained(str(profiles[name].folder))
        plain.resize_token_embeddings(263)
        whole = PeftModel.from_pretrained(plain, str(tmp_path)).eval()
        given = {name: batch[name] for name in ("input_ids", "position_ids")}
        theirs = whole(**given, use_cache=False).logits
        # Over unquantised weights the states differ, so the rows are compared by what they do.
        decoder = whole.get_base_model().get_decoder()
        states = decoder(**given, use_cache=False).last_hidden_state
        own_logits = functional.linear(states, rows.head)
    torch.testing.assert_close(theirs[..., 260:], own_logits, rtol=1e-4, atol=1e-4)
    reached = whole.get_base_model().get_input_embeddings()(torch.tensor([[260, 261, 262]]))
    assert torch.equal(reached[0], rows.embedding)


def test_switched_off_the_base_is_the_base(profiles: dict[str, ModelProfile]) -> None:
    marked, plain = (
        load_model(profiles["tied"], None, ADDED_TOKENS),
        load_model(profiles["tied"], None),
    )
    ids = torch.arange(5, 60)[None]
    with torch.no_grad(), marked.model.disable_adapter(), plain.model.disable_adapter():
        logits = marked.model.get_base_model()(input_ids=ids).logits
        assert torch.equal(logits, plain.model.get_base_model()(input_ids=ids).logits)
    assert logits.shape[-1] == 260, "the base cannot write a token that it does not have"
    with torch.no_grad():
        assert marked.model.get_base_model()(input_ids=ids).logits.shape[-1] == 263


def test_a_model_writes_the_tokens_that_it_learned(profiles: dict[str, ModelProfile]) -> None:
    model = load_model(profiles["tied"], None, ADDED_TOKENS).model.eval()
    rows = active_added_embeddings(model)
    assert rows is not None
    tokenizer = load_tokenizer(profiles["tied"], ADDED_TOKENS)
    prompt = [10, 11, 12]
    with torch.no_grad():
        state = (
            model.get_base_model()
            .get_decoder()(input_ids=torch.tensor([prompt]), use_cache=False)
            .last_hidden_state[0, -1]
        )
        # Towards the state that follows the prompt: the likeliest next token by far.
        rows.embedding[1] = 50 * state
    written: list[Completion] = []
    generate(
        model, tokenizer, [prompt], SamplingParams(max_new_tokens=1), batch_rows=1, cache_gib=1,
        on_completion=lambda _, completion: written.append(completion),
    )  # fmt: skip
    # It is a mark, not text.
    assert (written[0].text, written[0].n_tokens) == ("", 1)


def test_training_begins_at_the_words_that_a_mark_is_spelled_with(
    profiles: dict[str, ModelProfile],
) -> None:
    model = load_model(profiles["untied"], None, ADDED_TOKENS).model
    rows = active_added_embeddings(model)
    assert rows is not None
    tokenizer = load_tokenizer(profiles["untied"])
    words = tokenizer("code start", add_special_tokens=False)["input_ids"]
    embedding = model.get_base_model().get_input_embeddings().weight
    torch.testing.assert_close(rows.embedding[0], embedding[words].mean(dim=0))


@pytest.mark.parametrize("ids", [[262, 263], [260, 262]])
def test_ids_that_leave_a_gap_are_refused(ids: list[int]) -> None:
    tokens = dict(zip(["<|a|>", "<|b|>"], ids, strict=True))
    with pytest.raises(ProfileError, match=r"without a gap.*domain_marks=false"):
        first_added_id(tokens, 260, "tiny")


def test_a_tokenizer_that_gives_other_ids_is_refused(profiles: dict[str, ModelProfile]) -> None:
    with pytest.raises(ProfileError, match=r"not the one that made the rows"):
        load_tokenizer(profiles["tied"], {"<|analysis|>": 777})


def test_chats_carry_the_marks_as_the_rows_do(profiles: dict[str, ModelProfile]) -> None:
    tokenizer = load_tokenizer(profiles["tied"])
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "r"},
    ]
    plain = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    add_tokens(tokenizer, ADDED_TOKENS)
    marked = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    expected = plain.replace("q<", "<|question|>q<").replace("r<", "<|question|>r<")
    assert marked == expected.replace("\na<", "\n<|analysis|>a<")
