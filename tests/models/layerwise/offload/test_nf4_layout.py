"""The cache of quantized layers."""

import itertools
import logging
import random
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from tests.builders.damage import FAULTS, damage_file
from tests.builders.tiny_llama import save_tiny_llama
from transformers import AutoConfig

from the_block_llm.models.layerwise.architecture import decoder_shape
from the_block_llm.models.layerwise.offload import nf4_layout
from the_block_llm.models.layerwise.offload.checkpoint_files import CheckpointFiles
from the_block_llm.models.layerwise.offload.nf4_layout import LayerLayout, quantized_layers

CPU = torch.device("cpu")
DiskUsage = namedtuple("DiskUsage", "total used free")


@pytest.fixture
def weights_folder(tmp_path: Path) -> Path:
    return save_tiny_llama(tmp_path / "weights")


def load_layers(weights_folder: Path, cache_folder: Path | None) -> list[torch.Tensor]:
    shape = decoder_shape(AutoConfig.from_pretrained(weights_folder))
    assert shape is not None
    layout = LayerLayout(shape, torch.float32)
    return list(quantized_layers(CheckpointFiles(weights_folder), layout, CPU, cache_folder))


def test_the_second_load_reads_the_same_layers_from_the_cache(
    weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uncached = load_layers(weights_folder, None)
    first = load_layers(weights_folder, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".layers"]
    monkeypatch.setattr(nf4_layout, "quantize_layer", None)  # calling it would fail
    second = load_layers(weights_folder, tmp_path / "cache")
    for expected, quantized, cached in zip(uncached, first, second, strict=True):
        assert torch.equal(expected, quantized)
        assert torch.equal(expected, cached)


def test_a_damaged_layer_is_quantized_again(weights_folder: Path, tmp_path: Path) -> None:
    expected = load_layers(weights_folder, tmp_path / "cache")
    for fault, seed in itertools.product(FAULTS, range(3)):
        [file] = (tmp_path / "cache").iterdir()
        damage_file(file, fault, random.Random(seed))
        for _ in range(2):  # the second load writes the cache anew
            layers = load_layers(weights_folder, tmp_path / "cache")
            assert all(map(torch.equal, expected, layers)), fault


def test_changed_weights_are_quantized_again(weights_folder: Path, tmp_path: Path) -> None:
    before = load_layers(weights_folder, tmp_path / "cache")
    shutil.rmtree(weights_folder)
    save_tiny_llama(weights_folder, seed=4)
    after = load_layers(weights_folder, tmp_path / "cache")
    assert not torch.equal(before[0], after[0])
    assert torch.equal(after[0], load_layers(weights_folder, None)[0])


def test_an_interrupted_load_leaves_no_cache_file(
    weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_layer = nf4_layout.quantize_layer

    def interrupt(files: CheckpointFiles, layout: LayerLayout, index: int, device: torch.device):
        if index == 1:
            raise KeyboardInterrupt
        return quantize_layer(files, layout, index, device)

    monkeypatch.setattr(nf4_layout, "quantize_layer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_layers(weights_folder, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_disk_space_layers_are_loaded_but_not_cached(
    weights_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(nf4_layout.shutil, "disk_usage", lambda _: DiskUsage(1, 1, 1000))
    caplog.set_level(logging.WARNING)
    assert len(load_layers(weights_folder, tmp_path / "cache")) == 2
    assert list((tmp_path / "cache").iterdir()) == []
    assert "Quantized layers are not cached" in caplog.text
