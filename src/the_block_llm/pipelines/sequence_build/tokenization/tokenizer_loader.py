"""Load a profile's tokenizer once per process, and without importing torch.

tokenizers 0.23 caches words in each of its threads for as long as the thread lives, also those of
a tokenizer that was deleted: loading one for every batch of repositories would leak some ten
megabytes each time. And transformers, which reads tokenizers, imports torch: a quarter of a
gigabyte that building sequences does not need.
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from the_block_llm.execution.local_jobs import run_in_subprocess
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.sequence_build.documents.special_tokens import add_domain_tokens
from the_block_llm.pipelines.sequence_build.tokenization.document_tokenizer import DocumentTokenizer

_CacheKey = tuple[str, bool]


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer and the file it was read from."""

    tokenizer: DocumentTokenizer
    added_tokens: dict[str, int]
    """Ids of the domain tokens, by token; empty without them."""
    file: Path
    modified_ns: int
    """Modification time of the file; 0 if the file is not on this machine."""


_loaded: Final[dict[_CacheKey, LoadedTokenizer]] = {}
"""The last tokenizer loaded in this process."""


def get_tokenizer(profile: ModelProfile, *, domain_marks: bool) -> LoadedTokenizer:
    """Return the profile's tokenizer, loaded if this process does not have it yet.

    Unless torch is imported already, a subprocess reads it, which takes a second more.

    Args:
        profile: The model profile.
        domain_marks: Whether to add the domain tokens.

    Raises:
        ModelUnavailableError: The model cannot be found or downloaded.
        ProfileError: The profile does not fit the tokenizer.
    """
    key = profile.model_dump_json(), domain_marks
    loaded = _loaded.get(key)
    if loaded is None or loaded.modified_ns != _modified_ns(loaded.file):
        _loaded.clear()
        load = _load if "torch" in sys.modules else _load_in_subprocess
        loaded = _loaded[key] = load(profile, domain_marks)
    return loaded


def _load_in_subprocess(profile: ModelProfile, domain_marks: bool) -> LoadedTokenizer:
    loaded: LoadedTokenizer = run_in_subprocess(_load_with_logging, profile, domain_marks)
    return loaded


def _load_with_logging(profile: ModelProfile, domain_marks: bool) -> LoadedTokenizer:
    # Logging is not configured in the subprocess.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("the_block_llm").setLevel(logging.INFO)
    return _load(profile, domain_marks)


def _load(profile: ModelProfile, domain_marks: bool) -> LoadedTokenizer:
    # Imported here, so that importing the pipelines does not import torch.
    from the_block_llm.models.base.sources import (  # noqa: PLC0415
        load_tokenizer,
        prepare_base_model,
    )

    file = Path(prepare_base_model(profile), "tokenizer.json")
    tokenizer = load_tokenizer(profile)
    added = add_domain_tokens(tokenizer) if domain_marks else {}
    return LoadedTokenizer(DocumentTokenizer(tokenizer, profile), added, file, _modified_ns(file))


def _modified_ns(file: Path) -> int:
    return file.stat().st_mtime_ns if file.is_file() else 0
