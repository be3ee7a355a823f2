"""A job for a process without torch, so this module imports nothing that imports torch."""

import sys

from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.sequence_build.tokenization.tokenizer_loader import (
    LoadedTokenizer,
    get_tokenizer,
)


def load_and_check_torch(profile: ModelProfile) -> tuple[bool, LoadedTokenizer]:
    """Return whether loading imported torch, and the tokenizer with domain tokens."""
    loaded = get_tokenizer(profile, domain_marks=True)
    return "torch" in sys.modules, loaded
