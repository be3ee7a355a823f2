"""Embedding and head of a peft model with trained rows of added tokens beside them.

On disk the rows are what peft calls ``trainable_token_indices``, so that plain peft loads them
over a base with a resized vocabulary; peft's own layers copy the whole matrix in every pass, 1 GiB
each time for Llama-3.
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

# peft's name of the rows in an adapter's file.
_SAVED_AS: Final = "token_adapter.trainable_tokens_delta"


class _RowsBeside(AuxiliaryTrainingWrapper):
    """A frozen matrix with trained rows of its own beside it, by adapter."""

    def init_modules(self, adapter_name: str, **options: Any) -> None:
        """Make room for the rows."""
        del adapter_name, options
        self.rows = nn.ParameterDict()
        self._first_ids: dict[str, int] = {}
        self._tied_to: list[_RowsBeside] = []

    def update(
        self,
        adapter_name: str,
        *,
        first_id: int,
        rows: torch.Tensor | None,
        tied_to: "_RowsBeside | None" = None,
        **options: Any,
    ) -> None:
        """Give an adapter its rows, or those of the matrix that this one is tied to."""
        super().update(adapter_name, **options)
        self._first_ids[adapter_name] = first_id
        if rows is not None:
            self.rows[adapter_name] = nn.Parameter(rows)
        # In a list: else the rows would be parameters of both, and saved twice.
        self._tied_to = [] if tied_to is None else [tied_to]

    def active_rows(self) -> tuple[int, nn.Parameter] | None:
        """First id and rows of the adapter that is switched on."""
        names = [name for name in self.active_adapters if name in self._adapters]
        if self.disable_adapters or not names:
            return None
        held = self._tied_to[0].rows if self._tied_to else self.rows
        return self._first_ids[names[0]], held[names[0]]

    def forward(self, *args: Any, **options: Any) -> torch.Tensor:
        """As the frozen layer, and with the rows where an adapter is on."""
        active = self.active_rows()
        if active is None:
            plain: torch.Tensor = self.original_module(*args, **options)
            return plain
        return self._with_rows(args[0], *active)

    def _with_rows(self, x: torch.Tensor, first_id: int, rows: nn.Parameter) -> torch.Tensor:
        raise NotImplementedError

    # What peft asks of such a module.

    def _hasattr_wrapped(self, name: str, modules: Any) -> bool:
        del modules
        return hasattr(self.original_module, name)

    def _getattr_wrapped(self, name: str, modules: Any) -> Any:
        del modules
        return getattr(self.original_module, name)

    def __getattr__(self, name: str) -> Any:
        # Sizes and the frozen weight, whether or not an adapter is on.
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
        """What is saved of an adapter; tied rows are saved by the other matrix."""
        if adapter_name not in self.rows:
            return {}
        return {_SAVED_AS: state_dict[f"rows.{adapter_name}"]}

    def adapter_state_dict_load_map(self, adapter_name: str) -> dict[str, str]:
        """Where what was saved belongs."""
        return {_SAVED_AS: f"rows.{adapter_name}"} if adapter_name in self.rows else {}

    def check_set_adapter(self, adapter_name: str | list[str]) -> str | None:
        """The adapter to switch on here, if it has rows."""
        names = [adapter_name] if isinstance(adapter_name, str) else adapter_name
        return next((name for name in names if name in self._adapters), None)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Switch an adapter on; the others' rows are not trained."""
        super().set_adapter(adapter_names, inference_mode)
        for name, rows in self.rows.items():
            rows.requires_grad_(name in self.active_adapters and not inference_mode)

    def set_requires_grad(
        self, adapter_names: str | Sequence[str], requires_grad: bool = True
    ) -> None:
        """Let an adapter's rows be trained, or not."""
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        for name in names:
            if name in self.rows:
                self.rows[name].requires_grad_(requires_grad)

    def delete_adapter(self, adapter_name: str, new_active_adapters: list[str] | None) -> None:
        """Forget an adapter's rows."""
        self._adapters.discard(adapter_name)
        if adapter_name in self.rows:
            del self.rows[adapter_name]
        self.set_adapter([name for name in new_active_adapters or [] if name in self._adapters])


class _EmbeddingWithRows(_RowsBeside):
    def _with_rows(self, x: torch.Tensor, first_id: int, rows: nn.Parameter) -> torch.Tensor:
        place = x - first_id
        added = (place >= 0) & (place < rows.shape[0])
        states = self.original_module(x.masked_fill(added, 0))
        own = functional.embedding(place.clamp(0, rows.shape[0] - 1), rows).to(states.dtype)
        return torch.where(added.unsqueeze(-1), own, states)


class _HeadWithRows(_RowsBeside):
    def _with_rows(self, x: torch.Tensor, first_id: int, rows: nn.Parameter) -> torch.Tensor:
        own = functional.linear(x, rows.to(x.dtype))
        return concat_added_logits(self.original_module(x), own, first_id)


def attach_added_embeddings(
    model: PeftModel, adapter_name: str, rows: InitialTokenEmbeddings
) -> None:
    """Put rows beside embedding and head of ``model``, as part of the adapter of that name."""
    base = model.get_base_model()
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    ids = list(range(rows.first_id, rows.first_id + rows.embedding.shape[0]))
    indices = {_name_of(base, embedding): ids}
    options: dict[str, Any] = {"first_id": rows.first_id, "rows": rows.embedding}
    if isinstance(embedding, _RowsBeside):
        embedding.update(adapter_name, **options)
    else:
        embedding = _EmbeddingWithRows(embedding, adapter_name, **options)
        base.set_input_embeddings(embedding)
    options["rows"] = rows.head
    if rows.head is None:
        options["tied_to"] = embedding
    else:
        indices[_name_of(base, head)] = ids
    if isinstance(head, _RowsBeside):
        head.update(adapter_name, **options)
    else:
        base.set_output_embeddings(_HeadWithRows(head, adapter_name, **options))
    # For the file: peft itself never acts on it here.
    model.peft_config[adapter_name].trainable_token_indices = indices


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    inner = wanted.original_module if isinstance(wanted, _RowsBeside) else wanted
    name = next(name for name, module in model.named_modules() if module is inner)
    return name.removesuffix(".original_module").rpartition(".")[2]


def active_added_embeddings(model: nn.Module) -> AddedTokenEmbeddings | None:
    """The rows of the adapter that is on, of a plain model with one or of a peft model."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    embedding, head = inner.get_input_embeddings(), inner.get_output_embeddings()
    active = embedding.active_rows() if isinstance(embedding, _RowsBeside) else None
    if active is None:
        return None
    return AddedTokenEmbeddings(*active, head.active_rows()[1])


def load_added_embeddings(
    model: PreTrainedModel,
    indices: Mapping[str, Sequence[int]],
    weights: Mapping[str, torch.Tensor],
) -> InitialTokenEmbeddings:
    """First id, rows of the embedding, and those of an untied head, as an adapter's file has them.

    Args:
        model: The base.
        indices: ``trainable_token_indices`` of the adapter's configuration, as
            :func:`attach_added_embeddings` writes it.
        weights: Of the file.

    Raises:
        AdapterError: The file lacks them.
    """
    found = []
    embedding = _name_of(model, model.get_input_embeddings())
    for layer in sorted(indices, key=lambda layer: layer != embedding):
        name = next((n for n in weights if n.endswith(f".{layer}.{_SAVED_AS}")), None)
        if name is None:
            raise AdapterError(
                f"The adapter's weights lack the rows of the added tokens ({layer}), which its "
                "configuration names. The folder is damaged; train again."
            )
        found.append(weights[name])
    first_id = next(iter(indices.values()))[0]
    return InitialTokenEmbeddings(first_id, found[0], found[1] if len(found) > 1 else None)
