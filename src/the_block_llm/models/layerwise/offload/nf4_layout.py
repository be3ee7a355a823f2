"""Decoder layers as flat buffers: 4-bit weights, their scales, norms and biases.

One buffer a layer, all of one layout, so that a layer travels to the GPU in a single copy
and a quantised model is one file. Layers are quantised one matrix at a time: neither the
16-bit nor the 4-bit model is ever whole on the GPU for the sake of loading.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import bitsandbytes.functional as bnb
import numpy as np
import torch

from the_block_llm.models.layerwise.architecture import DecoderShape
from the_block_llm.models.layerwise.kernels.fused import NESTED_BLOCK, NF4_BLOCK, PackedLinear
from the_block_llm.models.layerwise.offload.checkpoint_files import CheckpointFiles

_log = logging.getLogger(__name__)
_ALIGNMENT: Final = 256
# Part of the cached copy's name: change it when the layout or the quantisation changes.
_FORMAT: Final = 1


@dataclass(frozen=True)
class _Place:
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class LayerLayout:
    """Where everything of one layer lies in its buffer."""

    def __init__(self, shape: DecoderShape, dtype: torch.dtype) -> None:
        self.shape = shape
        self.dtype = dtype
        self._places: dict[str, _Place] = {}
        self.n_bytes = 0
        for linear in shape.linears():
            blocks = linear.size // NF4_BLOCK
            nested = -(-blocks // NESTED_BLOCK)
            self._add(f"{linear.name}.packed", torch.uint8, linear.size // 2)
            self._add(f"{linear.name}.scales", torch.uint8, blocks)
            self._add(f"{linear.name}.nested_scales", torch.float32, nested)
            self._add(f"{linear.name}.nested_code", torch.float32, 256)
            self._add(f"{linear.name}.offset", torch.float32, 1)
            if linear.biased:
                self._add(f"{linear.name}.bias", dtype, linear.out_features)
        for name in shape.norms():
            self._add(name, dtype, shape.hidden)

    def _add(self, name: str, dtype: torch.dtype, length: int) -> None:
        place = _Place(self.n_bytes, dtype, (length,))
        self._places[name] = place
        self.n_bytes += -(-place.n_bytes // _ALIGNMENT) * _ALIGNMENT

    def views(self, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors in ``buffer``, uint8 of ``n_bytes``, without a copy."""
        return {
            name: buffer[place.start : place.start + place.n_bytes].view(place.dtype)
            for name, place in self._places.items()
        }

    def linears(self, views: dict[str, torch.Tensor]) -> dict[str, PackedLinear]:
        """The Linear layers by name."""
        return {
            linear.name: PackedLinear(views, linear.name, (linear.out_features, linear.in_features))
            for linear in self.shape.linears()
        }


def can_pack(shape: DecoderShape) -> bool:
    """Whether the engine can hold the weights: blocks of 64 must not cross rows."""
    return all(linear.in_features % NF4_BLOCK == 0 for linear in shape.linears())


def quantise_layer(
    files: CheckpointFiles, layout: LayerLayout, index: int, device: torch.device
) -> torch.Tensor:
    """Read layer ``index`` and pack it, on ``device``.

    Returns:
        A buffer of ``layout``, on ``device``.
    """
    buffer = torch.zeros(layout.n_bytes, dtype=torch.uint8, device=device)
    views = layout.views(buffer)
    prefix = f"model.layers.{index}."
    for linear in layout.shape.linears():
        weight = files.read(f"{prefix}{linear.name}.weight").to(device, layout.dtype)
        packed, state = bnb.quantize_4bit(
            weight, blocksize=NF4_BLOCK, compress_statistics=True, quant_type="nf4"
        )
        del weight
        views[f"{linear.name}.packed"].copy_(packed.view(-1))
        views[f"{linear.name}.scales"].copy_(state.absmax)
        views[f"{linear.name}.nested_scales"].copy_(state.state2.absmax)
        views[f"{linear.name}.nested_code"].copy_(state.state2.code)
        views[f"{linear.name}.offset"].copy_(state.offset.view(1))
        if linear.biased:
            views[f"{linear.name}.bias"].copy_(files.read(f"{prefix}{linear.name}.bias"))
    for name in layout.shape.norms():
        views[name].copy_(files.read(prefix + name))
    return buffer


def packed_layers(
    files: CheckpointFiles, layout: LayerLayout, device: torch.device, cache_folder: Path | None
) -> Iterator[torch.Tensor]:
    """Every layer's buffer in turn, from the cached copy where there is one.

    Args:
        files: The 16-bit weights.
        layout: Of the buffers.
        device: Where to quantise.
        cache_folder: Where a quantised copy is kept for the next start; none: nowhere.

    Yields:
        A buffer, on ``device`` or, from the copy, in host memory.
    """
    n_layers = layout.shape.n_layers
    if cache_folder is None:
        for index in range(n_layers):
            yield quantise_layer(files, layout, index, device)
        return
    copy = cache_folder / f"nf4-{_copy_name(files, layout)}.layers"
    if copy.is_file() and copy.stat().st_size == n_layers * layout.n_bytes:
        _log.info("Using the quantised copy %s", copy, extra={"markup": False})
        with copy.open("rb") as file:
            for _ in range(n_layers):
                yield torch.from_numpy(np.fromfile(file, dtype=np.uint8, count=layout.n_bytes))
        return
    yield from _quantised_and_kept(
        copy, n_layers, lambda index: quantise_layer(files, layout, index, device)
    )


def _quantised_and_kept(
    copy: Path, n_layers: int, quantise: Callable[[int], torch.Tensor]
) -> Iterator[torch.Tensor]:
    unfinished = copy.with_name(f".{copy.name}.{uuid.uuid4().hex}.unfinished")
    file = None
    try:
        for index in range(n_layers):
            buffer = quantise(index)
            if index == 0 and _has_room(copy.parent, n_layers * buffer.numel()):
                file = unfinished.open("wb")
            if file is not None:
                buffer.cpu().numpy().tofile(file)
            yield buffer
        if file is not None:
            file.flush()
            os.fsync(file.fileno())
            unfinished.replace(copy)
    finally:
        if file is not None:
            file.close()
        unfinished.unlink(missing_ok=True)


def _has_room(folder: Path, n_bytes: int) -> bool:
    """Whether a copy may be kept; it saves time only, so a full disk is no error."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError:
        return False
    if free > 2 * n_bytes:
        return True
    _log.warning(
        "No quantised copy is kept in %s: it takes %.1f GiB and %.1f GiB are free", folder,
        n_bytes / 2**30, free / 2**30, extra={"markup": False},
    )  # fmt: skip
    return False


def _copy_name(files: CheckpointFiles, layout: LayerLayout) -> str:
    decisive = [_FORMAT, str(layout.dtype), str(files.folder.resolve()), files.stamp()]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]
