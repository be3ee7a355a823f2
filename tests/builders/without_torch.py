"""What a process does that has not loaded torch; so nothing that loads it is imported here."""

import sys

from the_block_llm.models.profiles import ModelProfile
from the_block_llm.pipelines.sequence_build.tokenization.tokenizer_loader import (
    LoadedTokenizer,
    loaded_tokenizer,
)


def load_and_look(profile: ModelProfile) -> tuple[bool, LoadedTokenizer]:
    """Whether torch is loaded afterwards, and the tokenizer with domain marks."""
    found = loaded_tokenizer(profile, domain_marks=True)
    return "torch" in sys.modules, found
