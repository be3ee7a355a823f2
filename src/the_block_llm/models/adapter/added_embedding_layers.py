"""peft wrappers of the embedding and the head that add trained rows for added tokens.

The file format is that of peft's ``trainable_token_indices``, so plain peft can load the rows on a
base with a resized vocabulary. peft's own layers are not used: they copy the complete matrix in
every forward pass, 1 GiB each time for Llama-3.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from peft import PeftModel
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from the_block_llm.errors import AdapterError
from the_block_llm.models.adapter.added_embeddings import (
    AddedTokenEmbeddings,
    InitialTokenEmbeddings,
    concat_added_logits,
)

# Key suffix of the rows in peft's adapter files.
_STATE_DICT_KEY: Final = "token_adapter.trainable_tokens_delta"


class _AddedTokensWrapper(AuxiliaryTrainingWrapper):
    """A frozen embedding or head with trained rows for added tokens, per adapter."""

    def init_modules(self, adapter_name: str, **options: Any) -> None:
        """Create the empty parameter dictionary."""
        del adapter_name, options
        self.rows = nn.ParameterDict()
        self._first_ids: dict[str, int] = {}
        self._tied_to: list[_AddedTokensWrapper] = []

    def update(
        self,
        adapter_name: str,
        *,
        first_id: int,
        rows: torch.Tensor | None,
        tied_to: "_AddedTokensWrapper | None" = None,
        **options: Any,
    ) -> None:
        """Register the rows of an adapter.

        Args:
            adapter_name: Name of the adapter.
            first_id: Id of the first added token.
            rows: Initial values, ``(tokens, hidden)``; None if tied.
            tied_to: Wrapper that owns the rows, for a tied head.
            **options: Passed on to peft.
        """
        super().update(adapter_name, **options)
        self._first_ids[adapter_name] = first_id
        if rows is not None:
            self.rows[adapter_name] = nn.Parameter(rows)
        # In a list, so that nn.Module does not register it and the rows are not saved twice.
        self._tied_to = [] if tied_to is None else [tied_to]

    def active_rows(self) -> tuple[int, nn.Parameter] | None:
        """Return the first id and the rows of the active adapter; None if there is none."""
        names = [name for name in self.active_adapters if name in self._adapters]
        if self.disable_adapters or not names:
            return None
        rows = self._tied_to[0].rows if self._tied_to else self.rows
        return self._first_ids[names[0]], rows[names[0]]

    def forward(self, *args: Any, **options: Any) -> torch.Tensor:
        """Run the frozen layer, extended by the rows of the active adapter."""
        active = self.active_rows()
        if active is None:
            result: torch.Tensor = self.original_module(*args, **options)
            return result
        return self._forward_added(args[0], *active)

    def _forward_added(self, x: torch.Tensor, first_id: int, rows: nn.Parameter) -> torch.Tensor:
        raise NotImplementedError

    # Interface of AuxiliaryTrainingWrapper.

    def _hasattr_wrapped(self, name: str, modules: Any) -> bool:
        del modules
        return hasattr(self.original_module, name)

    def _getattr_wrapped(self, name: str, modules: Any) -> Any:
        del modules
        return getattr(self.original_module, name)

    def __getattr__(self, name: str) -> Any:
        # Sizes and the frozen weight, with or without an active adapter.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "original_module":
                raise
            return getattr(self.original_module, name)

    def _get_available_adapters(self) -> set[str]:
        return set(self._adapters)

    def adapter_state_dict(
        self, adapter_name: str, state_dict: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Return the tensors to save for an adapter; tied rows are saved by the embedding."""
        if adapter_name not in self.rows:
            return {}
        return {_STATE_DICT_KEY: state_dict[f"rows.{adapter_name}"]}

    def adapter_state_dict_load_map(self, adapter_name: str) -> dict[str, str]:
        """Map the saved keys to the keys of the state dict."""
        return {_STATE_DICT_KEY: f"rows.{adapter_name}"} if adapter_name in self.rows else {}

    def check_set_adapter(self, adapter_name: str | list[str]) -> str | None:
        """Return the adapter to activate in this module; None if it has no rows here."""
        names = [adapter_name] if isinstance(adapter_name, str) else adapter_name
        return next((name for name in names if name in self._adapters), None)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Activate an adapter and freeze the rows of the others."""
        super().set_adapter(adapter_names, inference_mode)
        for name, rows in self.rows.items():
            rows.requires_grad_(name in self.active_adapters and not inference_mode)

    def set_requires_grad(
        self, adapter_names: str | Sequence[str], requires_grad: bool = True
    ) -> None:
        """Set ``requires_grad`` of the rows of adapters."""
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        for name in names:
            if name in self.rows:
                self.rows[name].requires_grad_(requires_grad)

    def delete_adapter(self, adapter_name: str, new_active_adapters: list[str] | None) -> None:
        """Remove the rows of an adapter."""
        self._adapters.discard(adapter_name)
        if adapter_name in self.rows:
            del self.rows[adapter_name]
        self.set_adapter([name for name in new_active_adapters or [] if name in self._adapters])


class _AddedTokensEmbedding(_AddedTokensWrapper):
    def _forward_added(self, x: torch.Tensor, first_id: int, rows: nn.Parameter) -> torch.Tensor:
        index = x - first_id
        is_added = (index >= 0) & (index < rows.shape[0])
        states = self.original_module(x.masked_fill(is_added, 0))
        added_states = functional.embedding(index.clamp(0, rows.shape[0] - 1), rows)
        return torch.where(is_added.unsqueeze(-1), added_states.to(states.dtype), states)


class _AddedTokensHead(_AddedTokensWrapper):
    def _forward_added(self, x: torch.Tensor, first_id: int, rows: nn.Parameter) -> torch.Tensor:
        added_logits = functional.linear(x, rows.to(x.dtype))
        return concat_added_logits(self.original_module(x), added_logits, first_id)


def attach_added_embeddings(
    model: PeftModel, adapter_name: str, initial: InitialTokenEmbeddings
) -> None:
    """Extend the embedding and the head of ``model`` by trained rows, as part of an adapter."""
    base = model.get_base_model()
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    ids = list(range(initial.first_id, initial.first_id + initial.embedding.shape[0]))
    indices = {_module_name(base, embedding): ids}
    options: dict[str, Any] = {"first_id": initial.first_id, "rows": initial.embedding}
    if isinstance(embedding, _AddedTokensWrapper):
        embedding.update(adapter_name, **options)
    else:
        embedding = _AddedTokensEmbedding(embedding, adapter_name, **options)
        base.set_input_embeddings(embedding)
    options["rows"] = initial.head
    if initial.head is None:
        options["tied_to"] = embedding
    else:
        indices[_module_name(base, head)] = ids
    if isinstance(head, _AddedTokensWrapper):
        head.update(adapter_name, **options)
    else:
        base.set_output_embeddings(_AddedTokensHead(head, adapter_name, **options))
    # Recorded for the saved configuration; peft does not act on it after creation.
    model.peft_config[adapter_name].trainable_token_indices = indices


def _module_name(model: nn.Module, module: nn.Module) -> str:
    inner = module.original_module if isinstance(module, _AddedTokensWrapper) else module
    name = next(name for name, child in model.named_modules() if child is inner)
    return name.removesuffix(".original_module").rpartition(".")[2]


def active_added_embeddings(model: nn.Module) -> AddedTokenEmbeddings | None:
    """Return the rows of the active adapter of a peft model or of its base; None without rows."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    embedding, head = inner.get_input_embeddings(), inner.get_output_embeddings()
    active = embedding.active_rows() if isinstance(embedding, _AddedTokensWrapper) else None
    if active is None:
        return None
    return AddedTokenEmbeddings(*active, head.active_rows()[1])


def load_added_embeddings(
    model: PreTrainedModel,
    indices: Mapping[str, Sequence[int]],
    weights: Mapping[str, torch.Tensor],
) -> InitialTokenEmbeddings:
    """Read the embeddings of added tokens from the weights of an adapter file.

    Args:
        model: The base model.
        indices: ``trainable_token_indices`` of the adapter's configuration, as
            :func:`attach_added_embeddings` writes it.
        weights: Tensors of the adapter file.

    Raises:
        AdapterError: The file does not contain the embeddings.
    """
    found = []
    embedding = _module_name(model, model.get_input_embeddings())
    for layer in sorted(indices, key=lambda layer: layer != embedding):
        name = next((n for n in weights if n.endswith(f".{layer}.{_STATE_DICT_KEY}")), None)
        if name is None:
            raise AdapterError(
                f"The adapter's weights lack the embeddings of the added tokens ({layer}) that its "
                "configuration lists. The folder is damaged; train again."
            )
        found.append(weights[name])
    first_id = next(iter(indices.values()))[0]
    return InitialTokenEmbeddings(first_id, found[0], found[1] if len(found) > 1 else None)
