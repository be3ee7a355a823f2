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
from transformers.modeling_outputs import CausalLMOutputWithPast

from the_block_llm.errors import ProfileError
from the_block_llm.models.segments import IGNORED_LABEL

# 256 positions of float32 logits over 128,256 tokens: 125 MiB.
_CHUNK_POSITIONS: Final = 256


class _FrozenHeadCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies; forward makes the gradient too, so that backward only scales it."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Add up ``-ln p(target)``; ``states`` is ``(n, hidden)``, ``targets`` ``(n,)``."""
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        gradient = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        for start in range(0, states.shape[0], _CHUNK_POSITIONS):
            chunk = slice(start, start + _CHUNK_POSITIONS)
            logits = functional.linear(states[chunk], weight).float()
            log_total = logits.logsumexp(dim=-1)
            index = targets[chunk].unsqueeze(-1)
            total += (log_total - logits.gather(-1, index).squeeze(-1)).sum()
            if gradient is not None:
                # d(loss)/d(logits) is softmax minus one-hot, made in place of the logits.
                slope = logits.sub_(log_total.unsqueeze(-1)).exp_()
                slope.scatter_add_(-1, index, torch.full_like(index, -1.0, dtype=slope.dtype))
                gradient[chunk] = slope.to(weight.dtype) @ weight
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Scale the gradient made on the way forward."""
        return ctx.gradient * outputs[0], None, None


def target_loss(
    states: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Cross-entropy of the labels that count, given the hidden states before the head.

    Args:
        states: Shape ``(rows, tokens, hidden)``; the state at a position predicts the next one.
        weight: Of the frozen head, ``(vocabulary, hidden)``.
        labels: ``(rows, tokens)``, -100 where there is nothing to learn.
        num_items_in_batch: Divides the sum; by default the number of labels, which makes a
            mean. With gradient accumulation it is the number over the whole step, or the
            result would depend on how rows are split over micro-batches.

    Returns:
        A float32 scalar; 0 where no label counts.
    """
    following = labels[:, 1:]
    counted = following != IGNORED_LABEL
    targets = following[counted]
    total: torch.Tensor = _FrozenHeadCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states[:, :-1][counted], weight, targets
    )
    divisor = targets.numel() if num_items_in_batch is None else num_items_in_batch
    if isinstance(divisor, torch.Tensor):
        divisor = divisor.to(total.device)
    return total / max(divisor, 1) if isinstance(divisor, int) else total / divisor.clamp(min=1)


def compute_loss_in_chunks(model: PreTrainedModel) -> None:
    """Let ``model(…, labels=…)`` give the loss without ever holding a row's logits.

    Without labels the model answers as before. The head must be frozen and in 16 or 32 bits.

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
        weight = self.get_output_embeddings().weight
        return CausalLMOutputWithPast(loss=target_loss(states, weight, labels, num_items_in_batch))

    model.forward = MethodType(forward, model)


def _refuse_changed_logits(model: PreTrainedModel) -> None:
    changes = [
        name
        for name, neutral in _LOGIT_CHANGES.items()
        if getattr(model.config, name, None) not in (None, neutral)
    ]
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        changes.append("a bias of the head")
    if changes:
        raise ProfileError(
            f"Models of type {model.config.model_type} cannot be trained yet: they change their "
            f"logits by {', '.join(changes)}, which the loss here leaves out. Choose a model "
            "without, such as a Llama, Mistral, Qwen or StarCoder2."
        )


# What configurations call it, and the value that changes nothing.
_LOGIT_CHANGES: Final = {
    "final_logit_softcapping": 0.0,  # Gemma 2
    "logits_scaling": 1.0,  # Granite
    "logit_scale": 1.0,  # Cohere
}
# The Trainer and peft pass these to every model; decoders take no notice of them.
_NOT_OF_DECODERS: Final = frozenset({"return_dict", "logits_to_keep", "use_cache"})
