"""Embeddings of added tokens; the frozen embedding and head are neither trained nor copied."""

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

ROWS_WITH_ADDED_TOKENS = random_rows([[24, 11]], seed=3, first_id=240, n_ids=263)
NAMES = ["tied", "untied", "spare rows"]


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelProfile]:
    return save_profiles(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_match_a_model_with_a_resized_vocabulary(
    profiles: dict[str, ModelProfile], name: str
) -> None:
    ours = load_model(profiles[name], None, ADDED_TOKENS)
    loss, gradients = loss_and_grads(ours, ROWS_WITH_ADDED_TOKENS)
    model = ours.model.get_base_model()
    rows = active_added_embeddings(model)
    assert rows is not None
    assert len(rows.parameters) == (1 if name == "tied" else 2)
    # Reference: complete matrices of 263 rows, trained by autograd.
    embedding, head = (
        torch.cat([layer.weight.detach()[:260], added.detach()]).requires_grad_()
        for layer, added in (
            (model.get_input_embeddings(), rows.embedding),
            (model.get_output_embeddings(), rows.head),
        )
    )
    batch = collate_rows(ROWS_WITH_ADDED_TOKENS, 3)
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
        expected_grads = [(embedding.grad + head.grad)[260:]]  # type: ignore[operator]
    else:
        expected_grads = [embedding.grad[260:], head.grad[260:]]  # type: ignore[index]
    for parameter, gradient in zip(rows.parameters, expected_grads, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-5)
    assert sum("rows" in key for key in gradients) == len(rows.parameters)


@pytest.mark.parametrize("name", NAMES)
def test_saved_rows_load_again_and_in_plain_peft_on_a_resized_base(
    profiles: dict[str, ModelProfile], name: str, tmp_path: Path
) -> None:
    ours = load_model(profiles[name], None, ADDED_TOKENS)
    rows = active_added_embeddings(ours.model)
    assert rows is not None
    for seed, parameter in enumerate(rows.parameters):
        generator = torch.Generator().manual_seed(seed)
        parameter.data = torch.randn(parameter.shape, generator=generator)
    ours.model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    n_saved = sum(
        tensor.numel() for tensor in load_file(tmp_path / "adapter_model.safetensors").values()
    )
    assert n_saved < 60_000, "the frozen matrices are not saved"
    batch = collate_rows(ROWS_WITH_ADDED_TOKENS, 3)
    with torch.no_grad():
        ours.model.eval()
        expected = token_nll(ours.model, batch)
        fresh = load_model(profiles[name], None, ADDED_TOKENS)
        set_peft_model_state_dict(fresh.model, load_file(tmp_path / "adapter_model.safetensors"))
        assert torch.equal(token_nll(fresh.model.eval(), batch), expected)
        plain = AutoModelForCausalLM.from_pretrained(str(profiles[name].folder))
        plain.resize_token_embeddings(263)
        peft_model = PeftModel.from_pretrained(plain, str(tmp_path)).eval()
        inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
        theirs = peft_model(**inputs, use_cache=False).logits
        # With unquantized weights the states differ, so compare the logits of the rows.
        decoder = peft_model.get_base_model().get_decoder()
        states = decoder(**inputs, use_cache=False).last_hidden_state
        added_logits = functional.linear(states, rows.head)
    torch.testing.assert_close(theirs[..., 260:], added_logits, rtol=1e-4, atol=1e-4)
    embedded = peft_model.get_base_model().get_input_embeddings()(torch.tensor([[260, 261, 262]]))
    assert torch.equal(embedded[0], rows.embedding)


def test_disabled_adapter_gives_the_logits_of_the_base(profiles: dict[str, ModelProfile]) -> None:
    with_tokens, plain = (
        load_model(profiles["tied"], None, ADDED_TOKENS),
        load_model(profiles["tied"], None),
    )
    ids = torch.arange(5, 60)[None]
    with torch.no_grad(), with_tokens.model.disable_adapter(), plain.model.disable_adapter():
        logits = with_tokens.model.get_base_model()(input_ids=ids).logits
        assert torch.equal(logits, plain.model.get_base_model()(input_ids=ids).logits)
    assert logits.shape[-1] == 260, "the base has no logits for added tokens"
    with torch.no_grad():
        assert with_tokens.model.get_base_model()(input_ids=ids).logits.shape[-1] == 263


def test_model_can_generate_added_tokens(profiles: dict[str, ModelProfile]) -> None:
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
        # Parallel to the last hidden state of the prompt: by far the most likely next token.
        rows.embedding[1] = 50 * state
    completions: list[Completion] = []
    generate(
        model, tokenizer, [prompt], SamplingParams(max_new_tokens=1), batch_rows=1, cache_gib=1,
        on_completion=lambda _, completion: completions.append(completion),
    )  # fmt: skip
    # Special tokens are skipped in the text.
    assert (completions[0].text, completions[0].n_tokens) == ("", 1)


def test_added_tokens_start_at_the_mean_of_their_subwords(
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
def test_ids_with_a_gap_are_rejected(ids: list[int]) -> None:
    tokens = dict(zip(["<|a|>", "<|b|>"], ids, strict=True))
    with pytest.raises(ProfileError, match=r"without a gap.*domain_marks=false"):
        first_added_id(tokens, 260, "tiny")


def test_tokenizer_that_assigns_other_ids_is_rejected(profiles: dict[str, ModelProfile]) -> None:
    with pytest.raises(ProfileError, match=r"not the one that made the rows"):
        load_tokenizer(profiles["tied"], {"<|analysis|>": 777})


def test_chat_template_contains_the_domain_tokens(profiles: dict[str, ModelProfile]) -> None:
    tokenizer = load_tokenizer(profiles["tied"])
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "r"},
    ]
    plain = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    add_tokens(tokenizer, ADDED_TOKENS)
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    expected = plain.replace("q<", "<|question|>q<").replace("r<", "<|question|>r<")
    assert rendered == expected.replace("\na<", "\n<|analysis|>a<")
