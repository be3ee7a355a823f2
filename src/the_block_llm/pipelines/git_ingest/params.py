"""Parameters of the pipeline ``git_ingest``."""

import datetime as dt
import os
from typing import Any

from pydantic import BaseModel, Field, field_validator


class GitIngestParams(BaseModel, frozen=True, extra="forbid"):
    """Parameters of the pipeline ``git_ingest``, validated before anything runs."""

    ref: str = Field(default="HEAD", min_length=1)
    """Branch, tag or commit whose history and files are read."""
    all_branches: bool = False
    """Also read the history of every other local and remote branch."""
    since: dt.datetime | None = None
    """Leave out commits committed before this time (UTC unless it has an offset)."""
    redact: bool = True
    """Replace secrets by typed placeholders. If false, secrets can end up in the weights."""
    allowed_secrets: tuple[str, ...] = ()
    """Fingerprints of values that are no secrets, from the report; they are not masked."""
    allowed_secret_paths: tuple[str, ...] = ()
    """Files in which nothing is masked but e-mail addresses, as patterns of ``.gitignore``."""
    pseudonymise: bool = True
    """Replace authors by keyed hashes and mask e-mail addresses in texts."""
    pseudonym_key_file: str = ".pseudonym.key"
    """File with the key of those hashes, created on first use. The same key gives the same IDs."""
    follow_alternates: bool = False
    """Also read object stores outside the repository. Only for repositories that you trust."""
    max_file_bytes: int = Field(default=1 << 20, ge=1)
    """Larger files are dropped as ``too_large``; a worker's memory grows with it."""
    max_patch_bytes: int = Field(default=1 << 18, ge=1)
    """Larger patches of one file in one commit are dropped as ``too_large``."""
    max_message_bytes: int = Field(default=1 << 16, ge=256)
    """Longer commit messages are truncated."""
    n_processes: int = Field(default=0, ge=0)
    """git processes that read in parallel; 0 uses one per core, up to 4."""
    cache_folder: str = "data/02_intermediate/.ingest_cache"
    """Cache of finished shards: a later run reads only what is new. Safe to delete."""
    clone_folder: str = "data/01_raw/clones"
    """Where repositories given as a URL or a bundle are cloned to."""

    @property
    def n_workers(self) -> int:
        return self.n_processes or min(4, os.cpu_count() or 1)

    @field_validator("since", mode="before")
    @classmethod
    def _refuse_numbers(cls, since: Any) -> Any:
        # pydantic would take them for seconds since 1970.
        if isinstance(since, int | float) or (isinstance(since, str) and since.strip().isdigit()):
            raise ValueError(f"{since!r} is not a date; use one such as 2026-01-31")
        return since

    @field_validator("since")
    @classmethod
    def _default_to_utc(cls, since: dt.datetime | None) -> dt.datetime | None:
        if since is not None and since.tzinfo is None:
            return since.replace(tzinfo=dt.UTC)
        return since
