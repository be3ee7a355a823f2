"""A profile's tokenizer, loaded once in each process, and without torch.

tokenizers 0.23 keeps the words that each of its threads has met for as long as the thread lives,
also those of a tokenizer that is gone: one loaded for every group of repositories would leave some
ten megabytes behind each time. And transformers, which reads tokenizers, brings torch with it: a
quarter of a gigabyte that making sequences has no use for.
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

_Key = tuple[str, bool]


@dataclass(frozen=True)
class LoadedTokenizer:
    """What the nodes need of it."""

    tokenizer: DocumentTokenizer
    added_tokens: dict[str, int]
    """Ids of the domain marks, by token; empty without them."""
    file: Path
    written_at: int
    """Of the file, in nanoseconds; 0 where the tokenizer is not one on this machine."""


_loaded: Final[dict[_Key, LoadedTokenizer]] = {}
"""The last one."""


def loaded_tokenizer(profile: ModelProfile, *, domain_marks: bool) -> LoadedTokenizer:
    """Load the profile's tokenizer, or take the one that this process has loaded.

    A process of its own reads it, which takes a second more, unless torch is here already.

    Args:
        profile: Whose.
        domain_marks: Whether they are added.

    Raises:
        ModelUnavailableError: It cannot be had.
        ProfileError: The profile does not fit it.
    """
    key = profile.model_dump_json(), domain_marks
    found = _loaded.get(key)
    if found is None or found.written_at != _written_at(found.file):
        _loaded.clear()
        read = _read if "torch" in sys.modules else _read_apart
        found = _loaded[key] = read(profile, domain_marks)
    return found


def _read_apart(profile: ModelProfile, domain_marks: bool) -> LoadedTokenizer:
    found: LoadedTokenizer = run_in_subprocess(_read_and_tell, profile, domain_marks)
    return found


def _read_and_tell(profile: ModelProfile, domain_marks: bool) -> LoadedTokenizer:
    # Nobody has said where messages go in a process of its own.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("the_block_llm").setLevel(logging.INFO)
    return _read(profile, domain_marks)


def _read(profile: ModelProfile, domain_marks: bool) -> LoadedTokenizer:
    # Here, so that looking at the project's pipelines need not wait for torch.
    from the_block_llm.models.base.sources import (  # noqa: PLC0415
        load_tokenizer,
        prepare_base_model,
    )

    file = Path(prepare_base_model(profile), "tokenizer.json")
    tokenizer = load_tokenizer(profile)
    added = add_domain_tokens(tokenizer) if domain_marks else {}
    return LoadedTokenizer(DocumentTokenizer(tokenizer, profile), added, file, _written_at(file))


def _written_at(file: Path) -> int:
    return file.stat().st_mtime_ns if file.is_file() else 0
