"""What a user may choose about reading a repository."""

import datetime as dt
import os

from pydantic import BaseModel, Field, field_validator


class GitIngestParams(BaseModel, frozen=True, extra="forbid"):
    """Parameters of the pipeline ``git_ingest``, checked before anything runs."""

    ref: str = Field(default="HEAD", min_length=1)
    """Branch, tag or commit whose history and files are read."""
    all_branches: bool = False
    """Also read the history of every other local and remote branch."""
    since: dt.datetime | None = None
    """Leave out commits that were committed before this moment (UTC unless it says)."""
    redact: bool = True
    """Put typed marks in the place of secrets. Off, secrets can end up in the weights."""
    pseudonymise: bool = True
    """Name authors by keyed hashes and mask e-mail addresses in texts."""
    pseudonym_key_file: str = "conf/local/pseudonym.key"
    """Where the key of those hashes is kept; made on first use. Ids stay stable with it."""
    follow_alternates: bool = False
    """Also read object stores outside the repository that it names. Only if you trust it."""
    max_file_bytes: int = Field(default=1 << 20, ge=1)
    """Files above this are left out as ``too_large``; memory of a worker grows with it."""
    max_patch_bytes: int = Field(default=1 << 18, ge=1)
    """Patches of one file in one commit above this are left out as ``too_large``."""
    max_message_bytes: int = Field(default=1 << 16, ge=256)
    """A commit message is cut there."""
    n_processes: int = Field(default=0, ge=0)
    """Git processes that read at the same time; 0 takes one for each core, up to 4."""
    cache_folder: str = "data/02_intermediate/.ingest_cache"
    """Finished pieces, so that a later run reads only what is new. Safe to delete."""
    clone_folder: str = "data/01_raw/clones"
    """Where repositories named by a URL or a bundle are cloned to."""

    @property
    def n_workers(self) -> int:
        return self.n_processes or min(4, os.cpu_count() or 1)

    @field_validator("since")
    @classmethod
    def _in_utc(cls, since: dt.datetime | None) -> dt.datetime | None:
        if since is not None and since.tzinfo is None:
            return since.replace(tzinfo=dt.UTC)
        return since
