"""Code for a process that has not imported torch; nothing here may import it."""

import sys

from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.sequence_build.tokenization.tokenizer_loader import (
    LoadedTokenizer,
    get_tokenizer,
)


def load_tokenizer_and_check_torch(profile: ModelProfile) -> tuple[bool, LoadedTokenizer]:
    """Load the tokenizer with domain marks; return whether torch is imported, and the tokenizer."""
    tokenizer = get_tokenizer(profile, domain_marks=True)
    return "torch" in sys.modules, tokenizer
