"""Versions of all that decides rows besides the repository and the options."""

import functools
import sys
from typing import Final

from the_block_llm.pipelines.git_ingest.git.program import require_git
from the_block_llm.pipelines.git_ingest.sharding.shard_cache import code_digest, digest_of
from the_block_llm.source_digest import library_versions

# Their rules are applied: to secrets, languages, encodings and in regular expressions.
_LIBRARIES: Final = ("detect-secrets", "pygments", "charset-normalizer", "google-re2")


@functools.cache
def tools_digest() -> str:
    """Return a digest of this code, git, Python and libraries; part of the name of every shard."""
    libraries = library_versions(_LIBRARIES)
    return digest_of(code_digest(), require_git(), sys.version_info[:2], libraries)
