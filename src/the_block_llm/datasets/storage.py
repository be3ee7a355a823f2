"""What a user may choose about where tables and reports lie, and the place that this means."""

from collections.abc import Mapping
from typing import Any

from kedro.config import AbstractConfigLoader, MissingConfigException
from pydantic import BaseModel, Field

from the_block_llm.datasets.object_store import StorageLocation, resolve_location
from the_block_llm.errors import ParameterError


class StorageParams(BaseModel, frozen=True, extra="forbid"):
    """Parameters ``storage``: where git_ingest and sequence_build keep what they make."""

    folder: str = Field(default="data", min_length=1)
    """A folder, or ``s3://bucket/prefix`` (extra ``s3``). Models, checkpoints, clones and caches
    stay in ``data/`` on the machine."""
    credentials: str | None = None
    """An entry of ``conf/local/credentials.yml`` with what fsspec needs for that store; none: what
    the machine has, as its environment or an instance role."""


def storage_params(parameters: Mapping[str, Any]) -> StorageParams:
    """The parameters ``storage`` among a project's parameters."""
    return StorageParams.model_validate(parameters.get("storage") or {})


def storage_location(loader: AbstractConfigLoader, where: str | None = None) -> StorageLocation:
    """A place with the credentials that ``storage`` names; by default the folder of ``storage``.

    Raises:
        ParameterError: No file of credentials has such an entry.
    """
    storage = storage_params(loader["parameters"])
    options: dict[str, Any] = {}
    if storage.credentials is not None:
        try:
            every = loader["credentials"]
        except MissingConfigException:
            every = {}
        if storage.credentials not in every:
            known = ", ".join(sorted(every)) or "none"
            raise ParameterError(
                f"storage.credentials is {storage.credentials!r}, and conf/local/credentials.yml "
                f"has no such entry (it has: {known}). Write it there, for example "
                f"{storage.credentials}: {{key: …, secret: …}}."
            )
        options = every[storage.credentials]
    return resolve_location(where or storage.folder, options)
