"""What a user may choose about where tables and reports lie."""

from pydantic import BaseModel, Field


class StorageParams(BaseModel, frozen=True, extra="forbid"):
    """Parameters ``storage``: where git_ingest and sequence_build keep what they make."""

    folder: str = Field(default="data", min_length=1)
    """A folder, or ``s3://bucket/prefix`` (extra ``s3``). Models, checkpoints, clones and caches
    stay in ``data/`` on the machine."""
    credentials: str | None = None
    """An entry of ``conf/local/credentials.yml`` with what fsspec needs for that store; none: what
    the machine has, as its environment or an instance role."""
