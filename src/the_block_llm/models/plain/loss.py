"""Cross-entropy straight from hidden states, a few positions at a time.

The logits of one row of 1,024 tokens over Llama-3's vocabulary take 0.5 GiB in float32, and
their gradient as much again. Only the positions that count are ever multiplied by the head,
in chunks, and since the head is frozen the gradient of the hidden states can be made in the
same pass, so no chunk's logits outlive it.
"""

from types import MethodType
from typing import Any, Final

import torch
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from the_block_llm.errors import ProfileError
from the_block_llm.models.adapter.added_embedding_layers import active_added_embeddings
from the_block_llm.models.adapter.added_embeddings import (
    AddedTokenEmbeddings,
    concat_added_logits,
    split_logits_grad,
)
from the_block_llm.models.collate import IGNORE_INDEX

# 256 positions of float32 logits over 128,256 tokens: 125 MiB.
CHUNK_POSITIONS: Final = 256
# Rounding of bfloat16 is a tenth of it.
_SAME_LOGITS: Final = 0.02
# What configurations call it, and the value that changes nothing; for the message.
_LOGIT_CHANGES: Final = {
    "final_logit_softcapping": 0.0,  # Gemma 2
    "logits_scaling": 1.0,  # Granite
    "logit_scale": 1.0,  # Cohere
    "lm_head_multiplier": 1.0,  # Falcon H1
}
# The Trainer and peft pass these to every model; decoders take no notice of them.
_NOT_OF_DECODERS: Final = frozenset({"return_dict", "logits_to_keep", "use_cache"})


class _FrozenHeadCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies; forward makes the gradients too, so that backward only scales them.

    Of the head only ``rows`` are trained: those of added tokens, from id ``first_id`` on.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        rows: torch.Tensor | None,
        first_id: int,
    ) -> torch.Tensor:
        """Add up ``-ln p(target)``; ``states`` is ``(n, hidden)``, ``targets`` ``(n,)``."""
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        with_gradient = any(ctx.needs_input_grad)
        gradient = torch.empty_like(states) if with_gradient else None
        own = None if rows is None else rows.to(weight.dtype)
        own_gradient = None if own is None else torch.zeros_like(own, dtype=torch.float32)
        for start in range(0, states.shape[0], CHUNK_POSITIONS):
            chunk = slice(start, start + CHUNK_POSITIONS)
            logits = functional.linear(states[chunk], weight)
            if own is not None:
                logits = concat_added_logits(
                    logits, functional.linear(states[chunk], own), first_id
                )
            logits = logits.float()
            log_total = logits.logsumexp(dim=-1)
            index = targets[chunk].unsqueeze(-1)
            total += (log_total - logits.gather(-1, index).squeeze(-1)).sum()
            if gradient is None:
                continue
            # d(loss)/d(logits) is softmax minus one-hot, made in place of the logits.
            slope = logits.sub_(log_total.unsqueeze(-1)).exp_()
            slope.scatter_add_(-1, index, torch.full_like(index, -1.0, dtype=slope.dtype))
            slope = slope.to(weight.dtype)
            if own is None or own_gradient is None:
                gradient[chunk] = slope @ weight
                continue
            slope, own_slope = split_logits_grad(slope, weight.shape[0], first_id, own.shape[0])
            gradient[chunk] = slope @ weight + own_slope @ own
            own_gradient += own_slope.T @ states[chunk]
        ctx.gradient, ctx.own_gradient = gradient, own_gradient
        ctx.own_dtype = None if rows is None else rows.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale the gradients made on the way forward."""
        own = ctx.own_gradient
        if own is not None:
            own = (own * outputs[0]).to(ctx.own_dtype)
        return ctx.gradient * outputs[0], None, None, own, None


def summed_cross_entropy(
    states: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    added: AddedTokenEmbeddings | None = None,
) -> torch.Tensor:
    """Sum of ``-ln p(target)``, a float32 scalar.

    Args:
        states: Before the head, ``(n, hidden)``.
        weight: Of the frozen head, ``(vocabulary, hidden)``.
        targets: ``(n,)``.
        added: Trained rows of added tokens.
    """
    total: torch.Tensor = _FrozenHeadCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states,
        weight,
        targets,
        None if added is None else added.head,
        0 if added is None else added.first_id,
    )
    return total


def target_loss(
    states: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    added: AddedTokenEmbeddings | None = None,
) -> torch.Tensor:
    """Cross-entropy of the labels that count, given the hidden states before the head.

    Args:
        states: Shape ``(rows, tokens, hidden)``; the state at a position predicts the next one.
        weight: Of the frozen head, ``(vocabulary, hidden)``.
        labels: ``(rows, tokens)``, -100 where there is nothing to learn.
        num_items_in_batch: Divides the sum; by default the number of labels, which makes a
            mean. With gradient accumulation it is the number over the whole step, or the
            result would depend on how rows are split over micro-batches.
        added: Trained rows of added tokens.

    Returns:
        A float32 scalar; 0 where no label counts.
    """
    following = labels[:, 1:]
    counted = following != IGNORE_INDEX
    targets = following[counted]
    total = summed_cross_entropy(states[:, :-1][counted], weight, targets, added)
    divisor = targets.numel() if num_items_in_batch is None else num_items_in_batch
    if isinstance(divisor, torch.Tensor):
        divisor = divisor.to(total.device)
    return total / max(divisor, 1) if isinstance(divisor, int) else total / divisor.clamp(min=1)


def compute_loss_in_chunks(model: PreTrainedModel) -> None:
    """Let ``model(…, labels=…)`` give the loss without ever holding a row's logits.

    Without labels the model answers as before. The head must be frozen, but for rows of added
    tokens, and in 16 or 32 bits.

    Raises:
        ProfileError: The model changes its logits after the head, which would be left out.
    """
    _refuse_changed_logits(model)
    plain_forward = model.forward

    def forward(
        self: PreTrainedModel,
        input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **options: Any,
    ) -> Any:
        if labels is None:
            return plain_forward(input_ids=input_ids, **options)
        options = {name: value for name, value in options.items() if name not in _NOT_OF_DECODERS}
        # With a cache, which is a model's default even in training, transformers no longer
        # recognises packed rows and their documents would see each other.
        states = self.get_decoder()(
            input_ids=input_ids, use_cache=False, **options
        ).last_hidden_state
        loss = target_loss(
            states,
            self.get_output_embeddings().weight,
            labels,
            num_items_in_batch,
            active_added_embeddings(self),
        )
        return CausalLMOutputWithPast(loss=loss)

    model.forward = MethodType(forward, model)


def _refuse_changed_logits(model: PreTrainedModel) -> None:
    changes = [
        name
        for name, neutral in _LOGIT_CHANGES.items()
        if getattr(model.config, name, None) not in (None, neutral)
    ]
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        changes.append("a bias of the head")
    if changes or _head_is_not_all(model):
        how = ", ".join(changes) or "something that is done to them after the head"
        raise ProfileError(
            f"Models of type {model.config.model_type} cannot be trained yet: they change their "
            f"logits by {how}, which the loss here leaves out. Choose a model without, such as a "
            "Llama, Mistral, Qwen or StarCoder2."
        )


@torch.no_grad()
def _head_is_not_all(model: PreTrainedModel) -> bool:
    """Whether logits are more than the head's product with the decoder's last states.

    Tried with two states of noise in the place of a decoder's: no layer computes.
    """
    decoder, weight = model.get_decoder(), model.get_output_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, 2, weight.shape[1], generator=generator).to(weight)
    noise = BaseModelOutputWithPast(last_hidden_state=states)
    replaced = vars(decoder).get("forward")  # by a library that hooks into it
    decoder.forward = lambda *_, **__: noise
    try:
        ids = torch.zeros(1, 2, dtype=torch.int64, device=weight.device)
        logits = model(input_ids=ids, use_cache=False).logits.float()
    finally:
        del decoder.forward
        if replaced is not None:
            decoder.forward = replaced
    rows = active_added_embeddings(model)
    expected = functional.linear(states, weight)
    if rows is not None:
        own = functional.linear(states, rows.head.to(weight.dtype))
        expected = concat_added_logits(expected, own, rows.first_id)
    expected = expected.float()
    return bool((logits - expected).norm() > _SAME_LOGITS * expected.norm())
