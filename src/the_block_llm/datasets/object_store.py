"""Places in an object store that fsspec reaches, S3 and what speaks like it, used as paths are.

An object is put as a whole: whoever reads sees the one before or the new one, so what a file
system needs a rename for is one call here. Nothing is opened for writing; fsspec completes such
an object even where the writer was interrupted.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import fsspec

from the_block_llm.errors import BlockError, StorageError

_EXTRAS: Final = {"s3": "s3", "s3a": "s3"}


@dataclass(frozen=True)
class StorePath:
    """A folder or an object, by its address; holds no connection, so it can be sent anywhere."""

    url: str
    """``s3://bucket/prefix/…``, without a slash at its end."""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """For fsspec: keys, ``client_kwargs: {endpoint_url: …}`` and the like. They are secrets."""

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
        """The address, as a path of a file system would give it."""
        return self.url

    def exists(self) -> bool:
        """True where there is an object of this name.

        Raises:
            StorageError: The store cannot be asked.
        """
        return self.name in self.parent.sizes()

    def sizes(self) -> dict[str, int]:
        """The objects right below this folder, with their bytes; none where there is no folder.

        Raises:
            StorageError: The store cannot be asked.
        """
        with self._told("listed"):
            try:
                entries = self._files().ls(self.url, detail=True, refresh=True)
            except FileNotFoundError as error:
                if _lacks_bucket(error):
                    raise
                return {}
        return {
            entry["name"].rpartition("/")[2]: int(entry["size"])
            for entry in entries
            if entry["type"] == "file"
        }

    def read_bytes(self) -> bytes:
        """The object's content.

        Raises:
            FileNotFoundError: There is none.
            StorageError: The store cannot be reached, or refuses.
        """
        missing = None
        with self._told("read"):
            try:
                return bytes(self._files().cat_file(self.url))
            except FileNotFoundError as error:
                if _lacks_bucket(error):
                    raise
                missing = error
        raise missing

    def read_text(self, encoding: str = "utf-8") -> str:
        """The object's content as text; errors as of :meth:`read_bytes`."""
        return self.read_bytes().decode(encoding)

    def open(self, mode: Literal["rb"] = "rb") -> Any:
        """The object for reading, in ranges and without holding it.

        Raises:
            StorageError: The store cannot be reached, or refuses.
        """
        with self._told("read"):
            # Whoever reads Parquet knows which ranges it needs; reading ahead would fetch others.
            return self._files().open(self.url, mode, cache_type="none")

    def put_bytes(self, data: bytes) -> None:
        """Put the object, whole or not at all.

        Raises:
            StorageError: The store cannot be reached, or refuses.
        """
        with self._told("written"):
            self._files().pipe_file(self.url, data)

    def put_file(self, source: Path) -> None:
        """Put a local file, whole or not at all; errors as of :meth:`put_bytes`."""
        with self._told("written"):
            self._files().put_file(str(source), self.url)

    def put_copy(self, source: "StorePath") -> None:
        """Let the store copy another of its objects here; errors as of :meth:`put_bytes`."""
        with self._told("written"):
            self._files().cp_file(source.url, self.url)

    def get_file(self, target: Path) -> None:
        """Write the object into a local file.

        Raises:
            StorageError: The store cannot be reached, or refuses.
        """
        with self._told("read"):
            self._files().get_file(self.url, str(target))

    def unlink(self) -> None:
        """Remove the object; errors as of :meth:`put_bytes`."""
        with self._told("removed"):
            self._files().rm_file(self.url)

    def remove_tree(self) -> None:
        """Remove all objects below this folder, if there are any."""
        with self._told("removed"):
            try:
                self._files().rm(self.url, recursive=True)
            except FileNotFoundError as error:
                if _lacks_bucket(error):
                    raise

    def _files(self) -> Any:
        # fsspec keeps one for each process and set of options. A listing that is kept would
        # hide what other processes have put since.
        protocol = self.url.partition("://")[0]
        return fsspec.filesystem(protocol, use_listings_cache=False, **self.options)

    @contextmanager
    def _told(self, done: str) -> Iterator[None]:
        """What goes wrong with a store, in words that say what to do."""
        try:
            yield
        except BlockError:
            raise
        except Exception as error:
            protocol = self.url.partition("://")[0]
            said = str(error).strip() or type(error).__name__
            raise StorageError(
                f"{self.url} cannot be {done}: {said}. {_remedy(error, protocol)}"
            ) from error


StorageLocation = Path | StorePath
"""A folder or file of this machine, or one of an object store."""


def resolve_location(where: str, options: Mapping[str, Any] | None = None) -> StorageLocation:
    """What ``where`` means: an address with a protocol, or a path of this machine.

    Args:
        where: ``s3://bucket/prefix`` or a path.
        options: Of the store, as ``conf/local/credentials.yml`` holds them.

    >>> resolve_location("data/02_intermediate"), resolve_location("s3://bucket/rows/")
    (PosixPath('data/02_intermediate'), StorePath(url='s3://bucket/rows'))
    """
    if "://" in where and not where.startswith("file://"):
        return StorePath(where.rstrip("/"), dict(options or {}))
    return Path(PurePosixPath(where.removeprefix("file://")))


def check_writable(folder: StorePath) -> None:
    """Put a small object into the folder and remove it.

    Raises:
        StorageError: One of the two is refused.
    """
    probe = folder / ".can-be-written"
    probe.put_bytes(b"")
    probe.unlink()


def _lacks_bucket(error: FileNotFoundError) -> bool:
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") == "NoSuchBucket"


def _remedy(error: Exception, protocol: str) -> str:
    if isinstance(error, ImportError):
        extra = _EXTRAS.get(protocol)
        if extra:
            return f"Install what reaches it: pip install 'the_block_llm[{extra}]'."
        return "Install the package that it names."
    if isinstance(error, ValueError) and "rotocol" in str(error):
        return "Give a path, or an address like s3://bucket/prefix."
    if isinstance(error, FileNotFoundError):
        return "Make the bucket, or correct storage.folder; this project makes none."
    if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
        return (
            "Check key and secret in conf/local/credentials.yml, that storage.credentials names "
            "that entry, and that it may read, write, list and delete there."
        )
    return (
        "Check the network and the store's address (client_kwargs: {endpoint_url: …} in "
        "conf/local/credentials.yml), then run again; what was there before is unchanged."
    )
