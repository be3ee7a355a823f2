"""The pseudonym key: created once, and never used when it is damaged."""

import logging
import random
import stat
from pathlib import Path

import pytest
from tests.builders.damage import damage_file

from the_block_llm.errors import StorageError
from the_block_llm.pipelines.git_ingest.redaction.pseudonyms import load_pseudonymizer


def test_the_key_is_private_created_once_and_announced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    key_file = tmp_path / "conf" / "pseudonym.key"
    first = load_pseudonymizer(True, key_file)
    assert first.key is not None
    assert len(first.key) == 32
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert "another key gives other author IDs" in caplog.text
    caplog.clear()
    assert load_pseudonymizer(True, key_file) == first
    assert not caplog.text


@pytest.mark.parametrize("fault", ["truncate", "empty", "zeros", "bit"])
def test_a_damaged_key_is_an_error_and_never_another_key(tmp_path: Path, fault: str) -> None:
    """An empty key would be a valid one, from which names can be computed."""
    key_file = tmp_path / "pseudonym.key"
    expected = load_pseudonymizer(True, key_file)
    text = key_file.read_text()
    for seed in range(100):
        damage_file(key_file, fault, random.Random(seed))
        if key_file.read_text("latin-1").strip() in (text.split()[0], text.strip()):
            # Without its checksum, or its end of line, the key is still whole.
            assert load_pseudonymizer(True, key_file) == expected
        else:
            with pytest.raises(StorageError, match="delete a damaged key"):
                load_pseudonymizer(True, key_file)
        key_file.write_text(text)


def test_a_key_of_the_user_needs_no_checksum(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0f" * 32)
    assert load_pseudonymizer(True, tmp_path / "key").key == b"\x0f" * 32
    (tmp_path / "key").write_text("0f" * 16)
    with pytest.raises(StorageError, match="it is damaged"):
        load_pseudonymizer(True, tmp_path / "key")
