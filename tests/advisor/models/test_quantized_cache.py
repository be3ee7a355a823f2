"""Cached weights equal freshly quantized ones, also after the cache was damaged."""

import random
from pathlib import Path

import pytest
import torch
from tests.builders.damage import FAULTS, damage_file
from tests.builders.tiny_llama import save_tiny_llama, tiny_profile

from the_block_llm.advisor.models.quantized_cache import load_quantized

CPU = torch.device("cpu")
IDS = torch.arange(5, 40)[None]


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_weights_are_quantized_again(tmp_path: Path, fault: str) -> None:
    profile = tiny_profile(save_tiny_llama(tmp_path / "model"))
    with torch.no_grad():
        expected = load_quantized(profile, CPU, tmp_path / "cache").eval()(IDS).logits
        [cached] = (tmp_path / "cache").glob("*.nf4-*")
        paths = sorted(cached.iterdir())
        assert {"model.safetensors", "config.json"} <= {path.name for path in paths}
        for seed, path in enumerate(paths):
            damage_file(path, fault, random.Random(seed))
            for _ in range(2):  # the second time from the cache
                logits = load_quantized(profile, CPU, tmp_path / "cache").eval()(IDS).logits
                assert torch.equal(logits, expected), path.name
    assert [p for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"] == [cached]
