"""Parameters of the storage location of tables and reports."""

from collections.abc import Mapping
from typing import Any

from kedro.config import AbstractConfigLoader, MissingConfigException
from pydantic import BaseModel, Field

from the_block_llm.datasets.object_store import StorageLocation, resolve_location
from the_block_llm.errors import ParameterError


class StorageParams(BaseModel, frozen=True, extra="forbid"):
    """Parameters ``storage``: location of the output of git_ingest and sequence_build."""

    folder: str = Field(default="data", min_length=1)
    """A folder, or ``s3://bucket/prefix`` (extra ``s3``). Models, checkpoints, clones and caches
    are always in the local ``data/``."""
    credentials: str | None = None
    """Entry of ``conf/local/credentials.yml`` with the fsspec options of the store; none: the
    credentials of the machine, from environment variables or an instance role."""


def storage_params(parameters: Mapping[str, Any]) -> StorageParams:
    """Validate the ``storage`` group of a project's parameters."""
    return StorageParams.model_validate(parameters.get("storage") or {})


def storage_location(loader: AbstractConfigLoader, location: str | None = None) -> StorageLocation:
    """Resolve a location with the credentials that ``storage`` names.

    Args:
        loader: The project's configuration.
        location: Path or URL; by default the folder of ``storage``.

    Raises:
        ParameterError: The credentials have no such entry.
    """
    storage = storage_params(loader["parameters"])
    options: dict[str, Any] = {}
    if storage.credentials is not None:
        try:
            entries = loader["credentials"]
        except MissingConfigException:
            entries = {}
        if storage.credentials not in entries:
            known = ", ".join(sorted(entries)) or "none"
            raise ParameterError(
                f"storage.credentials is {storage.credentials!r}, and conf/local/credentials.yml "
                f"has no such entry (it has: {known}). Add it, for example "
                f"{storage.credentials}: {{key: …, secret: …}}."
            )
        options = entries[storage.credentials]
    return resolve_location(location or storage.folder, options)
