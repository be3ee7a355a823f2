import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders.tiny_llama import tiny_llama
from transformers import AutoConfig, AutoModelForCausalLM

from the_block_llm.errors import ProfileError
from the_block_llm.models.collate import collate_rows
from the_block_llm.models.plain import loss as loss_module
from the_block_llm.models.plain.loss import compute_loss_in_chunks, target_loss


def plain_loss(
    states: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, divisor: int
) -> torch.Tensor:
    logits = (states.double() @ weight.double().T)[:, :-1]
    picked = torch.nn.functional.cross_entropy(
        logits.reshape(-1, weight.shape[0]), labels[:, 1:].reshape(-1), reduction="sum"
    )
    return picked / divisor


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 3),
    tokens=st.integers(1, 40),
    masked=st.floats(0, 1),
    chunk=st.sampled_from([1, 3, 7, 256]),
    seed=st.integers(0, 100),
)
def test_loss_and_gradient_are_those_of_the_plain_formula(
    rows: int, tokens: int, masked: float, chunk: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, tokens, 8, generator=generator)
    weight = torch.randn(50, 8, generator=generator)
    labels = torch.randint(0, 50, (rows, tokens), generator=generator)
    labels[torch.rand(rows, tokens, generator=generator) < masked] = -100
    ours, theirs = states.clone().requires_grad_(), states.double().requires_grad_()
    expected = plain_loss(theirs, weight, labels, divisor=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_module, "CHUNK_POSITIONS", chunk)
        loss = target_loss(ours, weight, labels, num_items_in_batch=7)
        loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5, rel=1e-6)
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=1e-6, rtol=1e-5)


def test_a_model_gives_the_loss_and_gradients_of_its_plain_forward() -> None:
    rows = [
        {
            "input_ids": [i % 200 + 4 for i in range(n)],
            "labels_mask": [i % 3 > 0 for i in range(n)],
            "segment_lengths": [n - 5, 5],
        }
        for n in (30, 50)
    ]
    batch = collate_rows(rows, pad_token_id=3)

    def run(*, in_chunks: bool) -> tuple[float, dict[str, torch.Tensor]]:
        model = tiny_llama().train()
        model.lm_head.weight.requires_grad_(False)
        if in_chunks:
            compute_loss_in_chunks(model)
        # A cache would switch the isolation of segments off; in chunks it is never used.
        options = {} if in_chunks else {"use_cache": False}
        loss = model(**batch, num_items_in_batch=torch.tensor(60), **options).loss
        loss.backward()
        return float(loss), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    (ours, our_gradients), (plain, plain_gradients) = run(in_chunks=True), run(in_chunks=False)
    assert ours == pytest.approx(plain, rel=1e-6)
    assert our_gradients.keys() == plain_gradients.keys()
    for name, gradient in our_gradients.items():
        torch.testing.assert_close(gradient, plain_gradients[name], atol=1e-6, rtol=1e-4)


def test_without_labels_the_model_answers_as_before() -> None:
    model, plain = tiny_llama().eval(), tiny_llama().eval()
    compute_loss_in_chunks(model)
    ids = torch.randint(4, 200, (1, 12))
    assert torch.equal(model(ids).logits, plain(ids).logits)
    assert model.generate(ids, max_new_tokens=4, do_sample=False).shape == (1, 16)


def test_all_masked_is_zero_not_nan() -> None:
    states = torch.randn(1, 4, 8, requires_grad=True)
    loss = target_loss(states, torch.randn(50, 8), torch.full((1, 4), -100))
    loss.backward()
    assert loss.item() == 0.0
    assert states.grad is not None
    assert not states.grad.any()


def test_segments_stay_apart_in_training_without_being_asked_to() -> None:
    model = tiny_llama().train()
    compute_loss_in_chunks(model)

    def loss(first: list[int]) -> float:
        row = {
            "input_ids": first + [9, 8, 7, 6, 5] * 4,
            "labels_mask": [False] * 20 + [True] * 20,
            "segment_lengths": [20, 20],
        }
        return float(model(**collate_rows([row], pad_token_id=3)).loss)

    assert loss([4] * 20) == loss(list(range(30, 50)))


_SMALL = {
    "vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0,
    "lru_width": 32,
}  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "changes", "why"),
    [
        ("gemma2", {}, "final_logit_softcapping"),
        ("granite", {"logits_scaling": 8.0}, "logits_scaling"),
        ("cohere", {}, "logit_scale"),
        ("phi", {}, "a bias of the head"),
        # Not known by name: what it does to logits is found by trying.
        ("recurrent_gemma", {"logits_soft_cap": 0.5}, "something that is done to them after"),
    ],
)
def test_models_that_change_their_logits_are_refused(
    model_type: str, changes: dict[str, float], why: str
) -> None:
    config = AutoConfig.for_model(model_type, **{**_SMALL, **changes})
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ProfileError, match=rf"{model_type} cannot be trained.*{why}.*Choose a"):
        compute_loss_in_chunks(model)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "starcoder2", "granite"])
def test_models_that_do_not_are_taken_and_nothing_stays_patched(model_type: str) -> None:
    # Granite's scaling is 1 unless a model says otherwise.
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **_SMALL))
    compute_loss_in_chunks(model)
    assert "forward" not in vars(model.get_decoder())
