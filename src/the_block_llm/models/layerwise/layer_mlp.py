"""The MLP of a decoder layer, forward and backward, one tile of tokens at a time."""

import torch

from the_block_llm.models.layerwise.architecture import DecoderShape
from the_block_llm.models.layerwise.kernels.gelu import gelu, gelu_backward_
from the_block_llm.models.layerwise.kernels.swiglu import swiglu, swiglu_backward_
from the_block_llm.models.layerwise.layer_context import LayerContext
from the_block_llm.models.layerwise.lora_linear import LoraLinear


class MlpBlock:
    """The norm, the MLP and its residual connection."""

    def __init__(self, shape: DecoderShape, mlp_in: LoraLinear, mlp_out: LoraLinear) -> None:
        """Take the fused Linear layers before and after the activation function."""
        self._shape = shape
        self._mlp_in = mlp_in
        self._mlp_out = mlp_out

    def forward(self, hidden_states: torch.Tensor, tile: slice, ctx: LayerContext) -> None:
        """Add the MLP's output for a tile of tokens to ``hidden_states``."""
        normed, preactivation, activation = self._compute_activations(
            hidden_states[tile], tile.start, ctx
        )
        del normed, preactivation
        hidden_states[tile].addmm_(activation, ctx.weight("mlp_out").T)
        ctx.add_bias_("mlp_out", hidden_states[tile])

    def _compute_activations(
        self, x: torch.Tensor, first_token: int, ctx: LayerContext
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return a tile's normed input, preactivation and activation.

        Normed input and activation are augmented with their LoRA columns.
        """
        hidden_size, intermediate_size = self._shape.hidden_size, self._shape.intermediate_size
        normed = x.new_empty(x.shape[0], hidden_size + self._mlp_in.padded_rank)
        ctx.norm("post_attention_layernorm", x, normed[:, :hidden_size])
        self._mlp_in.lora_a_forward(
            normed[:, :hidden_size], normed[:, hidden_size:],
            ctx.lora_a("mlp_in"), ctx.dropout_seed(2, first_token),
        )  # fmt: skip
        bias = ctx.bias("mlp_in")
        weight = ctx.weight("mlp_in")
        preactivation = normed @ weight.T if bias is None else torch.addmm(bias, normed, weight.T)
        activation = x.new_empty(x.shape[0], intermediate_size + self._mlp_out.padded_rank)
        activate = swiglu if self._shape.mlp == "swiglu" else gelu
        activate(preactivation, activation[:, :intermediate_size])
        self._mlp_out.lora_a_forward(
            activation[:, :intermediate_size], activation[:, intermediate_size:],
            ctx.lora_a("mlp_out"), ctx.dropout_seed(3, first_token),
        )  # fmt: skip
        return normed, preactivation, activation

    def backward(
        self,
        x: torch.Tensor,
        grad: torch.Tensor,
        first_token: int,
        ctx: LayerContext,
        free_weights: bool,
    ) -> None:
        """Add the gradient of a tile's input through the MLP to ``grad``.

        Args:
            x: The tile's input, ``(n, hidden_size)``.
            grad: Gradient of the tile's output, which becomes that of its input.
            first_token: Index of the tile's first token.
            ctx: Of the layer.
            free_weights: Whether to free each weight after use, and dequantize it again for the
                next product.
        """
        hidden_size, intermediate_size = self._shape.hidden_size, self._shape.intermediate_size
        normed, preactivation, activation = self._compute_activations(x, first_token, ctx)
        if free_weights:
            ctx.free_weights("mlp_in")
        all_rows = slice(None)
        self._mlp_out.accumulate_lora_b_grad(
            grad, activation[:, intermediate_size:], {self._mlp_out.names[0]: (all_rows, all_rows)}
        )
        grad_activation = grad @ ctx.weight("mlp_out")
        if free_weights:
            ctx.free_weights("mlp_out")
        self._mlp_out.lora_a_backward(
            activation[:, :intermediate_size], grad_activation[:, intermediate_size:],
            grad_activation[:, :intermediate_size],
            ctx.lora_a("mlp_out"), ctx.dropout_seed(3, first_token),
        )  # fmt: skip
        del activation
        # Both overwrite the preactivation with its gradient.
        if self._shape.mlp == "swiglu":
            swiglu_backward_(preactivation, grad_activation[:, :intermediate_size])
        else:
            gelu_backward_(preactivation, grad_activation[:, :intermediate_size])
        del grad_activation
        slices = {
            name: (slice(number * intermediate_size, (number + 1) * intermediate_size), all_rows)
            for number, name in enumerate(self._mlp_in.names)
        }
        self._mlp_in.accumulate_lora_b_grad(preactivation, normed[:, hidden_size:], slices)
        grad_normed = preactivation @ ctx.weight("mlp_in")
        self._mlp_in.lora_a_backward(
            normed[:, :hidden_size], grad_normed[:, hidden_size:], grad_normed[:, :hidden_size],
            ctx.lora_a("mlp_in"), ctx.dropout_seed(2, first_token),
        )  # fmt: skip
        ctx.accumulate_norm_grad("post_attention_layernorm", x, grad_normed[:, :hidden_size], grad)
