"""A profile's tokenizer, loaded once in each process.

tokenizers 0.23 keeps the words that each of its threads has met for as long as the thread lives,
also those of a tokenizer that is gone: one loaded for every group of repositories would leave some
50 MB behind each time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.sequence_build.domain_marks import add_domain_marks
from the_block_llm.pipelines.sequence_build.tokens import DocumentTokenizer

_Key = tuple[str, bool, int]


@dataclass(frozen=True)
class LoadedTokenizer:
    """What the nodes need of it."""

    tokenizer: DocumentTokenizer
    added_tokens: dict[str, int]
    """Ids of the domain marks, by token; empty without them."""


_loaded: Final[dict[_Key, LoadedTokenizer]] = {}
"""The last one."""


def loaded_tokenizer(profile: ModelProfile, *, domain_marks: bool) -> LoadedTokenizer:
    """Load the profile's tokenizer, or take the one that this process has loaded.

    Args:
        profile: Whose.
        domain_marks: Whether they are added.

    Raises:
        ModelUnavailableError: It cannot be had.
        ProfileError: The profile does not fit it.
    """
    # Here, so that looking at the project's pipelines need not wait for torch.
    from the_block_llm.models.base_models import (  # noqa: PLC0415
        load_tokenizer,
        prepare_base_model,
    )

    file = Path(prepare_base_model(profile), "tokenizer.json")
    written_at = file.stat().st_mtime_ns if file.is_file() else 0
    key = profile.model_dump_json(), domain_marks, written_at
    if key not in _loaded:
        _loaded.clear()
        tokenizer = load_tokenizer(profile)
        added = add_domain_marks(tokenizer) if domain_marks else {}
        _loaded[key] = LoadedTokenizer(DocumentTokenizer(tokenizer, profile), added)
    return _loaded[key]
