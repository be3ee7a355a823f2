"""Chunked cross-entropy, computed from hidden states without materializing a row's logits.

The logits of one row of 1,024 tokens over Llama-3's vocabulary take 0.5 GiB in float32, and
their gradient as much again. Here only positions with a target are multiplied by the head, in
chunks. Because the head is frozen, the gradient of the hidden states is computed in the forward
pass, so that the logits of a chunk are freed before the next one.
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
# Relative error of the logits; rounding to bfloat16 causes a tenth of it.
_LOGITS_TOLERANCE: Final = 0.02
# Names in model configurations, and the value without effect; used in the error message.
_LOGIT_TRANSFORMS: Final = {
    "final_logit_softcapping": 0.0,  # Gemma 2
    "logits_scaling": 1.0,  # Granite
    "logit_scale": 1.0,  # Cohere
    "lm_head_multiplier": 1.0,  # Falcon H1
}
# Arguments that the Trainer and peft pass to every model; not forwarded to the decoder.
_NON_DECODER_KWARGS: Final = frozenset({"return_dict", "logits_to_keep", "use_cache"})


class _FrozenHeadCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy whose gradients are computed in forward and only scaled in backward.

    Of the head only ``added_rows`` are trained: those of added tokens, from id ``first_id`` on.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        added_rows: torch.Tensor | None,
        first_id: int,
    ) -> torch.Tensor:
        """Sum ``-ln p(target)``; ``states`` is ``(n, hidden)``, ``targets`` ``(n,)``."""
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        needs_grad = any(ctx.needs_input_grad)
        states_grad = torch.empty_like(states) if needs_grad else None
        added = None if added_rows is None else added_rows.to(weight.dtype)
        added_grad = None if added is None else torch.zeros_like(added, dtype=torch.float32)
        for start in range(0, states.shape[0], CHUNK_POSITIONS):
            chunk = slice(start, start + CHUNK_POSITIONS)
            logits = functional.linear(states[chunk], weight)
            if added is not None:
                logits = concat_added_logits(
                    logits, functional.linear(states[chunk], added), first_id
                )
            logits = logits.float()
            log_sum = logits.logsumexp(dim=-1)
            index = targets[chunk].unsqueeze(-1)
            total += (log_sum - logits.gather(-1, index).squeeze(-1)).sum()
            if states_grad is None:
                continue
            # d(loss)/d(logits) is softmax minus one-hot, computed in place.
            grad = logits.sub_(log_sum.unsqueeze(-1)).exp_()
            grad.scatter_add_(-1, index, torch.full_like(index, -1.0, dtype=grad.dtype))
            grad = grad.to(weight.dtype)
            if added is None or added_grad is None:
                states_grad[chunk] = grad @ weight
                continue
            grad, added_logits_grad = split_logits_grad(
                grad, weight.shape[0], first_id, added.shape[0]
            )
            states_grad[chunk] = grad @ weight + added_logits_grad @ added
            added_grad += added_logits_grad.T @ states[chunk]
        ctx.states_grad, ctx.added_grad = states_grad, added_grad
        ctx.added_dtype = None if added_rows is None else added_rows.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale the gradients that forward has computed."""
        added_grad = ctx.added_grad
        if added_grad is not None:
            added_grad = (added_grad * outputs[0]).to(ctx.added_dtype)
        return ctx.states_grad * outputs[0], None, None, added_grad, None


def summed_cross_entropy(
    states: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    added: AddedTokenEmbeddings | None = None,
) -> torch.Tensor:
    """Return the sum of ``-ln p(target)``, a float32 scalar.

    Args:
        states: Hidden states before the head, ``(n, hidden)``.
        weight: Weight of the frozen head, ``(vocabulary, hidden)``.
        targets: Target ids, ``(n,)``.
        added: Trained embeddings of added tokens.
    """
    total: torch.Tensor = _FrozenHeadCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states,
        weight,
        targets,
        None if added is None else added.head,
        0 if added is None else added.first_id,
    )
    return total


def causal_lm_loss(
    states: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    added: AddedTokenEmbeddings | None = None,
) -> torch.Tensor:
    """Return the cross-entropy of next-token prediction from the hidden states before the head.

    Args:
        states: Hidden states, ``(rows, tokens, hidden)``; each predicts the next token.
        weight: Weight of the frozen head, ``(vocabulary, hidden)``.
        labels: ``(rows, tokens)``, -100 for positions without a target.
        num_items_in_batch: Divisor of the sum; by default the number of targets, which gives the
            mean. With gradient accumulation it is the number of targets in the optimizer step,
            so that the result does not depend on the micro-batch size.
        added: Trained embeddings of added tokens.

    Returns:
        A float32 scalar; 0 if there is no target.
    """
    shifted_labels = labels[:, 1:]
    is_target = shifted_labels != IGNORE_INDEX
    targets = shifted_labels[is_target]
    total = summed_cross_entropy(states[:, :-1][is_target], weight, targets, added)
    divisor = targets.numel() if num_items_in_batch is None else num_items_in_batch
    if isinstance(divisor, torch.Tensor):
        divisor = divisor.to(total.device)
    return total / max(divisor, 1) if isinstance(divisor, int) else total / divisor.clamp(min=1)


def enable_chunked_loss(model: PreTrainedModel) -> None:
    """Patch ``model.forward`` to compute the loss without materializing a row's logits.

    Without ``labels`` the original forward runs. The head must be frozen, except for the rows of
    added tokens, and have 16 or 32 bits.

    Raises:
        ProfileError: The model transforms its logits after the head, which is not supported.
    """
    _check_logits_untransformed(model)
    original_forward = model.forward

    def forward(
        self: PreTrainedModel,
        input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **options: Any,
    ) -> Any:
        if labels is None:
            return original_forward(input_ids=input_ids, **options)
        options = {
            name: value for name, value in options.items() if name not in _NON_DECODER_KWARGS
        }
        # With a KV cache, the default even in training, transformers does not detect packed rows,
        # and attention would cross segments.
        states = self.get_decoder()(
            input_ids=input_ids, use_cache=False, **options
        ).last_hidden_state
        loss = causal_lm_loss(
            states,
            self.get_output_embeddings().weight,
            labels,
            num_items_in_batch,
            active_added_embeddings(self),
        )
        return CausalLMOutputWithPast(loss=loss)

    model.forward = MethodType(forward, model)


def _check_logits_untransformed(model: PreTrainedModel) -> None:
    transforms = [
        name
        for name, neutral in _LOGIT_TRANSFORMS.items()
        if getattr(model.config, name, None) not in (None, neutral)
    ]
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        transforms.append("a bias of the head")
    if transforms or _transforms_logits(model):
        how = ", ".join(transforms) or "an operation after the head"
        raise ProfileError(
            f"Models of type {model.config.model_type} cannot be trained yet: they change their "
            f"logits by {how}, which the chunked loss does not support. Choose a model that does "
            "not, such as Llama, Mistral, Qwen or StarCoder2."
        )


@torch.no_grad()
def _transforms_logits(model: PreTrainedModel) -> bool:
    """Return whether the logits differ from the head's product with the decoder's last states.

    Checked on two random states that replace the decoder's output, so no layer runs.
    """
    decoder, weight = model.get_decoder(), model.get_output_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, 2, weight.shape[1], generator=generator).to(weight)
    fake_output = BaseModelOutputWithPast(last_hidden_state=states)
    patched_forward = vars(decoder).get("forward")  # set by a library that wraps modules
    decoder.forward = lambda *_, **__: fake_output
    try:
        ids = torch.zeros(1, 2, dtype=torch.int64, device=weight.device)
        logits = model(input_ids=ids, use_cache=False).logits.float()
    finally:
        del decoder.forward
        if patched_forward is not None:
            decoder.forward = patched_forward
    added = active_added_embeddings(model)
    expected = functional.linear(states, weight)
    if added is not None:
        added_logits = functional.linear(states, added.head.to(weight.dtype))
        expected = concat_added_logits(expected, added_logits, added.first_id)
    expected = expected.float()
    return bool((logits - expected).norm() > _LOGITS_TOLERANCE * expected.norm())
