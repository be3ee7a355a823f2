"""On-disk cache of token ids, shared by runs.

Texts are looked up by a hash of their content, in a folder named after everything else that
determines their ids: the tokenizer's serialized form, the version of its library and the format of
these files. Ids are memory-mapped, so a cache of any size takes little memory. A run writes one
file, renamed into place once it is complete, to a name that ends with its checksum: a damaged file
is deleted and its texts are tokenized again. The least recently used files are evicted when the
cache exceeds its limits.
"""

import os
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tokenizers

from the_block_llm.files.checksums import ChecksumFile, file_checksum
from the_block_llm.files.durable_files import UNFINISHED_SUFFIX, storage_error
from the_block_llm.locks.leases import lease, remove_unleased
from the_block_llm.os_errors import os_errno

_FORMAT_VERSION: Final = 2
_KEY_BYTES: Final = 16
_KEY_DTYPE: Final = np.dtype([("high", "<u8"), ("low", "<u8")])
_MIN_TEXT_BYTES: Final = 256  # shorter texts are tokenized faster than looked up
_MAX_CACHE_BYTES: Final = 1024**3  # of all files together: about 270 million tokens
_MAX_CACHE_FILES: Final = 64
_SCHEMA: Final = pa.schema([("key", pa.binary(_KEY_BYTES)), ("ids", pa.list_(pa.int32()))])


class TokenCache:
    """The cache of one tokenizer; a context manager, which saves new entries on exit."""

    def __init__(self, folder: Path, backend: Any) -> None:
        """Open the cache.

        Args:
            folder: Of the caches of all tokenizers; created if needed.
            backend: The tokenizer of the library ``tokenizers``.
        """
        settings = f"{_FORMAT_VERSION} {tokenizers.__version__} {backend.encode_special_tokens} "
        name = blake2b((settings + backend.to_str()).encode(), digest_size=8).hexdigest()
        self._root = folder
        self._folder = folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files: list[Path] = []
        self._batches: list[tuple[int, pa.ListArray]] = []  # index of the file, ids of the batch
        self._keys, self._locations = self._read()
        self._used_files: set[int] = set()
        self._unfinished = self._folder / f".{uuid.uuid4().hex}{UNFINISHED_SUFFIX}"
        self._lease = ExitStack()
        remove_unleased(self._folder, f".*{UNFINISHED_SUFFIX}")
        self._file: IO[bytes] | None = None
        self._sink: ChecksumFile | None = None
        self._writer: Any = None
        self._written_bytes = 0  # by this run

    def __enter__(self) -> "TokenCache":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._finish(keep=kind is None)
        finally:
            self._unfinished.unlink(missing_ok=True)
            self._lease.close()
        for number in self._used_files:
            with suppress(FileNotFoundError):  # evicted by another run
                os.utime(self._files[number])
        _evict(self._root)

    def _finish(self, keep: bool) -> None:
        if self._writer is None or self._sink is None or self._file is None:
            return
        try:
            self._writer.close()
            self._file.close()
            if keep:
                name = f"{uuid.uuid4().hex}-{self._sink.checksum}.arrow"
                self._unfinished.replace(self._folder / name)
        except OSError as error:
            raise storage_error(self._folder, error) from error
        finally:
            self._file.close()
            self._writer = None

    def lookup(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32] | None]:
        """Return the ids of each text, None for a text that is not cached."""
        found: list[npt.NDArray[np.int32] | None] = [None] * len(texts)
        if not len(self._keys):
            return found
        for index, text in enumerate(texts):
            key = _hash_text(text)
            if key is None:
                continue
            position = int(np.searchsorted(self._keys, key))
            if position < len(self._keys) and self._keys[position] == key:
                batch, row = self._locations[position]
                file_number, ids = self._batches[batch]
                self._used_files.add(file_number)
                start, end = ids.offsets[row].as_py(), ids.offsets[row + 1].as_py()
                found[index] = ids.values.to_numpy()[start:end]
        return found

    def store(self, texts: Sequence[str], ids: Sequence[npt.NDArray[np.int32]]) -> None:
        """Add texts with their ids; they are saved on exit and found by later runs."""
        entries = [
            (key, text_ids)
            for text, text_ids in zip(texts, ids, strict=True)
            if (key := _hash_text(text)) is not None
        ]
        # More than the limit would only evict what other runs wrote.
        if not entries or self._written_bytes > _MAX_CACHE_BYTES:
            return
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)  # another run may have evicted it
            self._lease.enter_context(lease(self._unfinished))
            self._file = self._unfinished.open("wb")
            self._sink = ChecksumFile(self._file)
            self._writer = pa.ipc.new_file(self._sink, _SCHEMA)
        offsets = np.zeros(len(entries) + 1, np.int32)
        np.cumsum([len(text_ids) for _, text_ids in entries], out=offsets[1:])
        column = pa.ListArray.from_arrays(
            pa.array(offsets), pa.array(np.concatenate([text_ids for _, text_ids in entries]))
        )
        self._written_bytes += column.nbytes
        keys = pa.array([key.tobytes() for key, _ in entries], pa.binary(_KEY_BYTES))
        self._writer.write_batch(pa.RecordBatch.from_arrays([keys, column], schema=_SCHEMA))

    def _read(self) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int32]]:
        """Map all files; return the sorted keys, and batch and row of each, shape ``(n, 2)``."""
        keys: list[npt.NDArray[np.void]] = [np.empty(0, _KEY_DTYPE)]
        locations: list[npt.NDArray[np.int32]] = [np.empty((0, 2), np.int32)]
        for path in sorted(self._folder.glob("*.arrow")):
            try:
                is_intact = file_checksum(path) == path.stem.rpartition("-")[2]
            except FileNotFoundError:
                continue  # evicted by another run
            except OSError as error:
                if os_errno(error) is None:
                    raise
                continue  # a file that cannot be read now is kept
            if not is_intact:
                path.unlink(missing_ok=True)  # damaged: its texts are tokenized again
                continue
            with suppress(FileNotFoundError):  # evicted by another run since
                self._map(path, keys, locations)
        all_keys = np.concatenate(keys)
        order = np.argsort(all_keys, kind="stable")
        return all_keys[order], np.concatenate(locations)[order]

    def _map(
        self, path: Path, keys: list[npt.NDArray[np.void]], locations: list[npt.NDArray[np.int32]]
    ) -> None:
        """Add the keys of a file, and where their ids are."""
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = [reader.get_batch(n) for n in range(reader.num_record_batches)]
        for batch in batches:
            rows = np.arange(batch.num_rows, dtype=np.int32)
            data = batch["key"].buffers()[1]
            keys.append(np.frombuffer(data, _KEY_DTYPE, count=batch.num_rows))
            locations.append(np.stack([np.full_like(rows, len(self._batches)), rows], axis=1))
            self._batches.append((len(self._files), batch["ids"]))
        self._files.append(path)


def _hash_text(text: str) -> np.void | None:
    """Return the key of a text, None for one that is too short to be cached."""
    data = text.encode()
    if len(data) < _MIN_TEXT_BYTES:
        return None
    digest = blake2b(data, digest_size=_KEY_BYTES).digest()
    key: np.void = np.frombuffer(digest, _KEY_DTYPE)[0]
    return key


def _evict(root: Path) -> None:
    """Delete the least recently used files that exceed the limits, and empty folders."""
    files = []
    for path in root.glob("*/*.arrow"):
        with suppress(FileNotFoundError):  # by another run
            files.append((path.stat(), path))
    files.sort(key=lambda pair: pair[0].st_mtime_ns, reverse=True)
    total_bytes = 0
    for number, (stat, path) in enumerate(files):
        total_bytes += stat.st_size
        if total_bytes > _MAX_CACHE_BYTES or number >= _MAX_CACHE_FILES:
            path.unlink(missing_ok=True)
    for folder in {path.parent for _, path in files}:
        with suppress(OSError):  # not empty, or already gone
            folder.rmdir()
