"""Token ids of texts that were tokenised in an earlier run.

Texts are found by a hash of their content, in a folder named after everything else that decides
their ids: the tokenizer as a whole, its library's version and the layout of these files. Ids are
memory-mapped, so a store of any size takes little memory. A run writes one file, put in place
when it is whole; the files longest unused go where the store grows past its bound.
"""

import uuid
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tokenizers

_LAYOUT: Final = 1
_KEY_BYTES: Final = 16
_SHORTEST_BYTES: Final = 256  # shorter texts are tokenised sooner than looked up
_MOST_BYTES: Final = 1024**3  # of all files together: about 270 million tokens
_MOST_FILES: Final = 64
_SCHEMA: Final = pa.schema([("key", pa.binary(_KEY_BYTES)), ("ids", pa.list_(pa.int32()))])


class TokenisedTexts:
    """The store of one tokenizer; used as a context, it keeps what was learned in it."""

    def __init__(self, folder: Path, backend: Any) -> None:
        """Open the store.

        Args:
            folder: Of all tokenizers' stores; made if needed.
            backend: The tokenizer of the library ``tokenizers``.
        """
        made_by = f"{_LAYOUT} {tokenizers.__version__} {backend.encode_special_tokens} "
        name = blake2b((made_by + backend.to_str()).encode(), digest_size=8).hexdigest()
        self._root = folder
        self._folder = folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files: list[Path] = []
        self._ids: list[tuple[int, pa.ListArray]] = []
        self._keys, self._places = self._read()
        self._used: set[int] = set()
        self._unfinished = self._folder / f".{uuid.uuid4().hex}.unfinished"
        self._writer: Any = None
        self._n_bytes = 0  # written by this run

    def __enter__(self) -> "TokenisedTexts":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            if kind is None:
                self._unfinished.replace(self._folder / f"{uuid.uuid4().hex}.arrow")
        self._unfinished.unlink(missing_ok=True)
        for number in self._used:
            self._files[number].touch()
        _keep_within_bound(self._root)

    def find(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32] | None]:
        """Ids of each text, none where it is not in the store."""
        found: list[npt.NDArray[np.int32] | None] = [None] * len(texts)
        if not len(self._keys):
            return found
        for at, text in enumerate(texts):
            key = _key(text)
            if key is None:
                continue
            place = int(np.searchsorted(self._keys, key))
            if place < len(self._keys) and self._keys[place] == key:
                batch, row = self._places[place]
                number, column = self._ids[batch]
                self._used.add(number)
                start, end = column.offsets[row].as_py(), column.offsets[row + 1].as_py()
                found[at] = column.values.to_numpy()[start:end]
        return found

    def remember(self, texts: Sequence[str], ids: Sequence[npt.NDArray[np.int32]]) -> None:
        """Keep the ids of texts for later runs."""
        keyed = [
            (key, part)
            for text, part in zip(texts, ids, strict=True)
            if (key := _key(text)) is not None
        ]
        # What would be more than may stay would only push out what other runs left.
        if not keyed or self._n_bytes > _MOST_BYTES:
            return
        if self._writer is None:
            self._writer = pa.ipc.new_file(str(self._unfinished), _SCHEMA)
        offsets = np.zeros(len(keyed) + 1, np.int32)
        np.cumsum([len(part) for _, part in keyed], out=offsets[1:])
        column = pa.ListArray.from_arrays(
            pa.array(offsets), pa.array(np.concatenate([part for _, part in keyed]))
        )
        self._n_bytes += column.nbytes
        keys = pa.array([key.tobytes() for key, _ in keyed], pa.binary(_KEY_BYTES))
        self._writer.write_batch(pa.RecordBatch.from_arrays([keys, column], schema=_SCHEMA))

    def _read(self) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int32]]:
        keys: list[npt.NDArray[np.void]] = [np.empty(0, _KEY)]
        places: list[npt.NDArray[np.int32]] = [np.empty((0, 2), np.int32)]
        for path in sorted(self._folder.glob("*.arrow")):
            try:
                reader = pa.ipc.open_file(pa.memory_map(str(path)))
                batches = [reader.get_batch(n) for n in range(reader.num_record_batches)]
            except (OSError, pa.ArrowInvalid):
                path.unlink(missing_ok=True)  # damaged: its texts are tokenised again
                continue
            for batch in batches:
                rows = np.arange(batch.num_rows, dtype=np.int32)
                data = batch["key"].buffers()[1]
                keys.append(np.frombuffer(data, _KEY, count=batch.num_rows))
                places.append(np.stack([np.full_like(rows, len(self._ids)), rows], axis=1))
                self._ids.append((len(self._files), batch["ids"]))
            self._files.append(path)
        all_keys = np.concatenate(keys)
        order = np.argsort(all_keys, kind="stable")
        return all_keys[order], np.concatenate(places)[order]


_KEY: Final = np.dtype([("high", "<u8"), ("low", "<u8")])


def _key(text: str) -> np.void | None:
    data = text.encode()
    if len(data) < _SHORTEST_BYTES:
        return None
    key: np.void = np.frombuffer(blake2b(data, digest_size=_KEY_BYTES).digest(), _KEY)[0]
    return key


def _keep_within_bound(root: Path) -> None:
    files = [(entry.stat(), entry) for entry in root.glob("*/*.arrow")]
    files.sort(key=lambda pair: pair[0].st_mtime_ns, reverse=True)
    total = 0
    for number, (facts, path) in enumerate(files):
        total += facts.st_size
        if total > _MOST_BYTES or number >= _MOST_FILES:
            path.unlink(missing_ok=True)
    for folder in {path.parent for _, path in files}:
        if not any(folder.iterdir()):
            folder.rmdir()
