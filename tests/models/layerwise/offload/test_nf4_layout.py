"""The quantised copy that the next start reads instead of the weights."""

import logging
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from tests.builders.tiny_llama import save_tiny_llama
from transformers import AutoConfig

from the_block_llm.models.layerwise.architecture import decoder_shape
from the_block_llm.models.layerwise.offload import nf4_layout
from the_block_llm.models.layerwise.offload.checkpoint_files import CheckpointFiles
from the_block_llm.models.layerwise.offload.nf4_layout import LayerLayout, packed_layers

CPU = torch.device("cpu")
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save_tiny_llama(tmp_path / "weights")


def layers(weights: Path, cache: Path | None) -> list[torch.Tensor]:
    shape = decoder_shape(AutoConfig.from_pretrained(weights))
    assert shape is not None
    layout = LayerLayout(shape, torch.float32)
    return list(packed_layers(CheckpointFiles(weights), layout, CPU, cache))


def test_the_second_start_reads_the_copy_and_gets_the_same(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = layers(weights, None)
    first = layers(weights, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".layers"]
    monkeypatch.setattr(nf4_layout, "quantise_layer", None)  # calling it would fail
    second = layers(weights, tmp_path / "cache")
    for one, two, three in zip(fresh, first, second, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_other_weights_are_quantised_anew(weights: Path, tmp_path: Path) -> None:
    before = layers(weights, tmp_path / "cache")
    shutil.rmtree(weights)
    save_tiny_llama(weights, seed=4)
    after = layers(weights, tmp_path / "cache")
    assert not torch.equal(before[0], after[0])
    assert torch.equal(after[0], layers(weights, None)[0])


def test_a_start_that_is_cut_off_leaves_no_copy(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = nf4_layout.quantise_layer

    def cut_off(files: CheckpointFiles, layout: LayerLayout, index: int, device: torch.device):
        if index == 1:
            raise KeyboardInterrupt
        return plain(files, layout, index, device)

    monkeypatch.setattr(nf4_layout, "quantise_layer", cut_off)
    with pytest.raises(KeyboardInterrupt):
        layers(weights, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_room_for_a_copy_it_goes_on_without_one(
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(nf4_layout.shutil, "disk_usage", lambda _: Usage(1, 1, 1000))
    caplog.set_level(logging.WARNING)
    assert len(layers(weights, tmp_path / "cache")) == 2
    assert list((tmp_path / "cache").iterdir()) == []
    assert "No quantised copy is kept" in caplog.text
