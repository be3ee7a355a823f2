"""Path-like access to object stores through fsspec: S3 and compatible stores.

Uploads are atomic: a reader sees the previous object or the new one, so no rename is needed.
Objects are never opened for writing, because fsspec completes such an object even if the writer
was interrupted.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import fsspec

from the_block_llm.errors import BlockError, StorageError
from the_block_llm.os_errors import affects_every_path, explain

_EXTRAS: Final = {"s3": "s3", "s3a": "s3"}


@dataclass(frozen=True)
class StorePath:
    """URL of a folder or an object; has no open connection, so it can be pickled."""

    url: str
    """``s3://bucket/prefix/…``, without a trailing slash."""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Options for fsspec: keys, ``client_kwargs: {endpoint_url: …}`` etc. Contains secrets."""

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "StorePath":
        return replace(self, url=f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> "StorePath":
        return replace(self, url=self.url.rpartition("/")[0])

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def as_posix(self) -> str:
        """Return the URL; counterpart of ``pathlib.Path.as_posix``."""
        return self.url

    def exists(self) -> bool:
        """Return whether there is an object with this URL.

        Raises:
            StorageError: The store cannot be listed.
        """
        return self.name in self.parent.sizes()

    def sizes(self) -> dict[str, int]:
        """Return the sizes in bytes of the objects directly in this folder, by name.

        Empty if the folder does not exist.

        Raises:
            StorageError: The store cannot be listed.
        """
        with self._store_errors("listed"):
            try:
                entries = self._filesystem().ls(self.url, detail=True, refresh=True)
            except FileNotFoundError as error:
                if _is_missing_bucket(error):
                    raise
                return {}
        return {
            entry["name"].rpartition("/")[2]: int(entry["size"])
            for entry in entries
            if entry["type"] == "file"
        }

    def read_bytes(self) -> bytes:
        """Read the object.

        Raises:
            FileNotFoundError: There is no such object.
            StorageError: The store is unreachable or denies access.
        """
        missing = None
        with self._store_errors("read"):
            try:
                return bytes(self._filesystem().cat_file(self.url))
            except FileNotFoundError as error:
                if _is_missing_bucket(error):
                    raise
                missing = error
        raise missing

    def read_text(self, encoding: str = "utf-8") -> str:
        """Read the object as text; raises as :meth:`read_bytes`."""
        return self.read_bytes().decode(encoding)

    def open(self, mode: Literal["rb"] = "rb") -> Any:
        """Open the object for reading byte ranges.

        Raises:
            StorageError: The store is unreachable or denies access.
        """
        with self._store_errors("read"):
            # The Parquet reader requests exact ranges; read-ahead would fetch unneeded bytes.
            return self._filesystem().open(self.url, mode, cache_type="none")

    def put_bytes(self, data: bytes) -> None:
        """Upload the object atomically.

        Raises:
            StorageError: The store is unreachable or denies access.
        """
        with self._store_errors("written"):
            self._filesystem().pipe_file(self.url, data)

    def put_new_bytes(self, data: bytes) -> bool:
        """Upload the object unless it exists; raises as :meth:`put_bytes`.

        A store without conditional writes replaces an object that is created at the same time.

        Returns:
            Whether it was uploaded.
        """
        if self.exists():
            return False
        with self._store_errors("written"):
            try:
                self._filesystem().pipe_file(self.url, data, mode="create")
            except FileExistsError:
                return False
        return True

    def put_file(self, source: Path) -> None:
        """Upload a local file atomically; raises as :meth:`put_bytes`."""
        with self._store_errors("written"):
            self._filesystem().put_file(str(source), self.url)

    def put_copy(self, source: "StorePath") -> None:
        """Copy another object of the store on the server; raises as :meth:`put_bytes`."""
        with self._store_errors("written"):
            self._filesystem().cp_file(source.url, self.url)

    def get_file(self, target: Path) -> None:
        """Download the object to a local file.

        Raises:
            StorageError: The store is unreachable or denies access.
        """
        with self._store_errors("read"):
            self._filesystem().get_file(self.url, str(target))

    def unlink(self) -> None:
        """Remove the object; raises as :meth:`put_bytes`."""
        with self._store_errors("removed"):
            self._filesystem().rm_file(self.url)

    def remove_tree(self) -> None:
        """Remove all objects below this folder; does nothing if there are none."""
        with self._store_errors("removed"):
            try:
                self._filesystem().rm(self.url, recursive=True)
            except FileNotFoundError as error:
                if _is_missing_bucket(error):
                    raise

    def _filesystem(self) -> Any:
        # fsspec caches one instance per process and set of options. A cached listing would hide
        # objects that other processes upload.
        protocol = self.url.partition("://")[0]
        return fsspec.filesystem(protocol, use_listings_cache=False, **self.options)

    @contextmanager
    def _store_errors(self, action: str) -> Iterator[None]:
        """Convert errors of the store to StorageError, with a remedy."""
        try:
            yield
        except BlockError:
            raise
        except Exception as error:
            if affects_every_path(error):  # of this machine, such as a full disk
                raise StorageError(f"{self.url} cannot be {action}: {explain(error)}") from error
            protocol = self.url.partition("://")[0]
            detail = str(error).strip() or type(error).__name__
            raise StorageError(
                f"{self.url} cannot be {action}: {detail}. {_remedy(error, protocol)}"
            ) from error


StorageLocation = Path | StorePath
"""A local path, or one in an object store."""


def resolve_location(location: str, options: Mapping[str, Any] | None = None) -> StorageLocation:
    """Parse a URL of an object store or a local path.

    Args:
        location: ``s3://bucket/prefix`` or a path.
        options: fsspec options of the store, from ``conf/local/credentials.yml``.

    >>> resolve_location("data/02_intermediate"), resolve_location("s3://bucket/rows/")
    (PosixPath('data/02_intermediate'), StorePath(url='s3://bucket/rows'))
    """
    if "://" in location and not location.startswith("file://"):
        return StorePath(location.rstrip("/"), dict(options or {}))
    return Path(PurePosixPath(location.removeprefix("file://")))


def check_writable(folder: StorePath) -> None:
    """Check write access by uploading and removing a small object.

    Raises:
        StorageError: The upload or the removal fails.
    """
    probe = folder / ".can-be-written"
    probe.put_bytes(b"")
    probe.unlink()


def _is_missing_bucket(error: FileNotFoundError) -> bool:
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") == "NoSuchBucket"


def _remedy(error: Exception, protocol: str) -> str:
    if isinstance(error, ImportError):
        extra = _EXTRAS.get(protocol)
        if extra:
            return f"Install the extra: pip install 'the_block_llm[{extra}]'."
        return "Install the package that the message names."
    if isinstance(error, ValueError) and "rotocol" in str(error):
        return "Give a path, or a URL like s3://bucket/prefix."
    if isinstance(error, FileNotFoundError):
        return (
            "Create the bucket, or correct storage.folder; buckets are not created automatically."
        )
    if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
        return (
            "Check key and secret in conf/local/credentials.yml, that storage.credentials names "
            "that entry, and that the account may read, write, list and delete there."
        )
    return (
        "Check the network and the store's URL (client_kwargs: {endpoint_url: …} in "
        "conf/local/credentials.yml), then run again; existing data is unchanged."
    )
