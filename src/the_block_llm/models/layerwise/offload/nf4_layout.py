"""Decoder layers as flat buffers: 4-bit weights, their scales, norms and biases.

All layers have the same layout, so that one copy moves a layer to the GPU, and the quantized
model is one file. Matrices are quantized one at a time: loading never needs the full 16-bit or
4-bit model on the GPU.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import bitsandbytes.functional as bnb
import numpy as np
import torch

from the_block_llm.files.durable_files import UNFINISHED_SUFFIX, remove_abandoned, sync_folder
from the_block_llm.models.layerwise.architecture import DecoderShape
from the_block_llm.models.layerwise.kernels.nf4 import NESTED_BLOCK_SIZE, NF4_BLOCK_SIZE, NF4Linear
from the_block_llm.models.layerwise.offload.checkpoint_files import CheckpointFiles

_log = logging.getLogger(__name__)
_ALIGNMENT_BYTES: Final = 256
# Part of the cache key: increment when the layout or the quantization changes.
_FORMAT_VERSION: Final = 2
_CHECKSUM_DTYPE: Final = np.dtype("<u4")


@dataclass(frozen=True)
class _TensorSlot:
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class LayerLayout:
    """Offsets of one layer's tensors in its buffer."""

    def __init__(self, shape: DecoderShape, dtype: torch.dtype) -> None:
        self.shape = shape
        self.dtype = dtype
        self._slots: dict[str, _TensorSlot] = {}
        self.n_bytes = 0
        for linear in shape.linears():
            n_blocks = linear.n_weights // NF4_BLOCK_SIZE
            n_nested_blocks = -(-n_blocks // NESTED_BLOCK_SIZE)
            self._add(f"{linear.name}.packed", torch.uint8, linear.n_weights // 2)
            self._add(f"{linear.name}.absmax", torch.uint8, n_blocks)
            self._add(f"{linear.name}.nested_absmax", torch.float32, n_nested_blocks)
            self._add(f"{linear.name}.nested_code", torch.float32, 256)
            self._add(f"{linear.name}.offset", torch.float32, 1)
            if linear.has_bias:
                self._add(f"{linear.name}.bias", dtype, linear.out_features)
        for name in shape.norms():
            self._add(name, dtype, shape.hidden_size)

    def _add(self, name: str, dtype: torch.dtype, length: int) -> None:
        slot = _TensorSlot(self.n_bytes, dtype, (length,))
        self._slots[name] = slot
        self.n_bytes += -(-slot.n_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES

    def views(self, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the tensors in ``buffer``, uint8 of ``n_bytes``, as views."""
        return {
            name: buffer[slot.start : slot.start + slot.n_bytes].view(slot.dtype)
            for name, slot in self._slots.items()
        }

    def linears(self, tensors: dict[str, torch.Tensor]) -> dict[str, NF4Linear]:
        """Return the Linear layers by name, given :meth:`views`."""
        return {
            linear.name: NF4Linear(tensors, linear.name, (linear.out_features, linear.in_features))
            for linear in self.shape.linears()
        }


def supports_nf4(shape: DecoderShape) -> bool:
    """Return whether the engine can store the weights: no NF4 block may span two rows."""
    return all(linear.in_features % NF4_BLOCK_SIZE == 0 for linear in shape.linears())


def quantize_layer(
    files: CheckpointFiles, layout: LayerLayout, index: int, device: torch.device
) -> torch.Tensor:
    """Read layer ``index`` and quantize it on ``device``.

    Returns:
        A buffer with ``layout``, on ``device``.
    """
    buffer = torch.zeros(layout.n_bytes, dtype=torch.uint8, device=device)
    tensors = layout.views(buffer)
    prefix = f"model.layers.{index}."
    for linear in layout.shape.linears():
        weight = files.read(f"{prefix}{linear.name}.weight").to(device, layout.dtype)
        packed, state = bnb.quantize_4bit(
            weight, blocksize=NF4_BLOCK_SIZE, compress_statistics=True, quant_type="nf4"
        )
        del weight
        tensors[f"{linear.name}.packed"].copy_(packed.view(-1))
        tensors[f"{linear.name}.absmax"].copy_(state.absmax)
        tensors[f"{linear.name}.nested_absmax"].copy_(state.state2.absmax)
        tensors[f"{linear.name}.nested_code"].copy_(state.state2.code)
        tensors[f"{linear.name}.offset"].copy_(state.offset.view(1))
        if linear.has_bias:
            tensors[f"{linear.name}.bias"].copy_(files.read(f"{prefix}{linear.name}.bias"))
    for name in layout.shape.norms():
        tensors[name].copy_(files.read(prefix + name))
    return buffer


def quantized_layers(
    files: CheckpointFiles, layout: LayerLayout, device: torch.device, cache_folder: Path | None
) -> Iterator[torch.Tensor]:
    """Yield the buffer of each layer, from the cache if it has them.

    Args:
        files: The 16-bit weights.
        layout: Layout of the buffers.
        device: Where to quantize.
        cache_folder: Where the quantized layers are cached; None for no cache.

    Yields:
        A buffer, on ``device`` or, from the cache, in host memory.
    """
    n_layers = layout.shape.n_layers
    if cache_folder is None:
        for index in range(n_layers):
            yield quantize_layer(files, layout, index, device)
        return
    cache_file = cache_folder / f"nf4-{_cache_key(files, layout)}.layers"
    checksums_bytes = n_layers * _CHECKSUM_DTYPE.itemsize
    if (
        cache_file.is_file()
        and cache_file.stat().st_size == n_layers * layout.n_bytes + checksums_bytes
    ):
        _log.info("Loading cached quantized layers from %s", cache_file, extra={"markup": False})
        yield from _read_cached(
            cache_file,
            layout.n_bytes,
            n_layers,
            lambda index: quantize_layer(files, layout, index, device),
        )
        return
    yield from _quantize_and_cache(
        cache_file, n_layers, lambda index: quantize_layer(files, layout, index, device)
    )


def _quantize_and_cache(
    cache_file: Path, n_layers: int, quantize: Callable[[int], torch.Tensor]
) -> Iterator[torch.Tensor]:
    """Yield quantized layers; write them, and their checksums, to ``cache_file`` atomically."""
    temp_file = cache_file.with_name(f".{cache_file.name}.{uuid.uuid4().hex}{UNFINISHED_SUFFIX}")
    checksums = np.zeros(n_layers, _CHECKSUM_DTYPE)
    remove_abandoned(cache_file)
    file = None
    try:
        for index in range(n_layers):
            buffer = quantize(index)
            if index == 0 and _has_disk_space(cache_file.parent, n_layers * buffer.numel()):
                file = temp_file.open("wb")
            if file is not None:
                values = buffer.cpu().numpy()
                checksums[index] = zlib.crc32(values.data)
                file.write(values.data)
            yield buffer
        if file is not None:
            file.write(checksums.data)
            file.flush()
            os.fsync(file.fileno())
            temp_file.replace(cache_file)
            sync_folder(cache_file.parent)
    finally:
        if file is not None:
            file.close()
        temp_file.unlink(missing_ok=True)


def _read_cached(
    cache_file: Path, layer_bytes: int, n_layers: int, quantize: Callable[[int], torch.Tensor]
) -> Iterator[torch.Tensor]:
    """Yield cached layers; quantize a damaged one, and then remove the file."""
    is_damaged = False
    with cache_file.open("rb") as file:
        file.seek(n_layers * layer_bytes)
        checksums = np.fromfile(file, _CHECKSUM_DTYPE, count=n_layers)
        file.seek(0)
        for index in range(n_layers):
            values = np.fromfile(file, dtype=np.uint8, count=layer_bytes)
            if zlib.crc32(values.data) == checksums[index]:
                yield torch.from_numpy(values)
                continue
            is_damaged = True
            _log.warning(
                "Layer %d in %s is damaged and is quantized again", index, cache_file,
                extra={"markup": False},
            )  # fmt: skip
            yield quantize(index)
    if is_damaged:
        cache_file.unlink(missing_ok=True)


def _has_disk_space(folder: Path, n_bytes: int) -> bool:
    """Return whether to cache ``n_bytes``; the cache is optional, so a full disk is no error."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError:
        return False
    if free > 2 * n_bytes:
        return True
    _log.warning(
        "Quantized layers are not cached in %s: they take %.1f GiB and %.1f GiB are free", folder,
        n_bytes / 2**30, free / 2**30, extra={"markup": False},
    )  # fmt: skip
    return False


def _cache_key(files: CheckpointFiles, layout: LayerLayout) -> str:
    parts = [_FORMAT_VERSION, str(layout.dtype), str(files.folder.resolve()), files.fingerprint()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
