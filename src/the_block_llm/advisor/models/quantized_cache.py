"""Cache of quantized base weights, so that a model is quantized once and not at every start.

The cached weights are bit for bit those of a fresh quantization. Loading them takes a tenth of the
time and, for an 8B model, reads a third of the bytes. Damaged ones are quantized again.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import bitsandbytes
import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from the_block_llm.errors import StorageError
from the_block_llm.files.checksums import (
    describe_files,
    find_damage,
    json_with_checksum,
    parse_json_with_checksum,
)
from the_block_llm.files.durable_files import replacing_folder
from the_block_llm.locks.leases import is_leased, lease
from the_block_llm.locks.process_lock import ProcessLock
from the_block_llm.models.base.quantized_loading import compute_dtype, load_base_model
from the_block_llm.models.base.sources import base_revision, prepare_base_model, quiet_loading
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.source_digest import source_digest

_log = logging.getLogger(__name__)
_KEY_FILE: Final = "quantised_from.json"


def load_quantized(
    profile: ModelProfile, device: torch.device, cache_folder: Path
) -> PreTrainedModel:
    """Load the profile's base model as :func:`load_base_model` does, from the cache if possible.

    Args:
        profile: The model to load.
        device: Device of the weights.
        cache_folder: Folder of the cache; the weights are added to it if they are missing.

    Raises:
        ModelUnavailableError: The weights are not available.
    """
    key = _cache_key(profile, device)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    cached = cache_folder / f"{profile.name}.nf4-{digest}"
    model = _load_cached(cached, device)
    if model is not None:
        return model
    with _locked(cache_folder / f".{profile.name}.nf4.lock", profile):
        model = _load_cached(cached, device)  # another process may just have saved them
        if model is None:
            model = load_base_model(profile, device)
            _save(model, key, cached)
    return model


@contextmanager
def _locked(path: Path, profile: ModelProfile) -> Iterator[None]:
    """Let one process quantize and save the weights of ``profile``, while the others wait."""
    lock = ProcessLock(path, f"The quantization of {profile.name} in {path.parent}")
    try:
        lock.acquire()
    except OSError as error:
        # Nothing can be saved there either, as _save then warns.
        _log.debug("No lock in %s: %s", path.parent, error, extra={"markup": False})
    try:
        yield
    finally:
        lock.release()


def _load_cached(cached: Path, device: torch.device) -> PreTrainedModel | None:
    if not (cached / _KEY_FILE).is_file():
        return None
    # Looked up again with the lease, from which on no other process removes the folder.
    with lease(cached), quiet_loading():
        if not _is_complete(cached):
            return None
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            cached,
            dtype=compute_dtype(device),
            device_map={"": str(device)},
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
        )
    return model.requires_grad_(False)


def _save(model: PreTrainedModel, key: str, target: Path) -> None:
    """Write the weights to ``target`` atomically and remove outdated ones of the profile."""
    try:
        with replacing_folder(target) as temporary:
            with quiet_loading():
                model.save_pretrained(temporary)
            record = {"key": key, "files": describe_files(temporary.iterdir())}
            (temporary / _KEY_FILE).write_text(json_with_checksum(record), encoding="utf-8")
        name = target.name.rpartition("-")[0]
        for outdated in target.parent.glob(f"{name}-*"):
            if outdated == target:
                continue
            # Without its key it is not opened again, and it goes once nobody reads it.
            (outdated / _KEY_FILE).unlink(missing_ok=True)
            if not is_leased(outdated):
                shutil.rmtree(outdated, ignore_errors=True)
    except (OSError, StorageError, SafetensorError) as error:
        # Not an error for the caller: the model is loaded, only the next start is slower.
        _log.warning(
            "The quantized weights cannot be cached in %s (%s); the next start quantizes them "
            "again.",
            target.parent, error, extra={"markup": False},
        )  # fmt: skip
        return
    name = target.name.rpartition("-")[0]
    for outdated in target.parent.glob(f"{name}-*"):
        if outdated != target:
            shutil.rmtree(outdated, ignore_errors=True)


def _is_complete(folder: Path) -> bool:
    try:
        record = parse_json_with_checksum((folder / _KEY_FILE).read_bytes())
    except (OSError, ValueError):
        return False
    return find_damage(folder, record["files"]) is None


def _cache_key(profile: ModelProfile, device: torch.device) -> str:
    """Return everything that determines the quantized weights, as JSON."""
    location = prepare_base_model(profile)
    files = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(Path(location).glob("*"))
        if path.suffix in {".safetensors", ".json"}
    ]
    return json.dumps(
        {
            "location": location,
            "revision": base_revision(profile, location),
            "files": files,
            "device": device.type,
            "dtype": str(compute_dtype(device)),
            "code": source_digest(["models/base/quantized_loading.py"]),
            "bitsandbytes": bitsandbytes.__version__,
            "transformers": transformers.__version__,
        },
        sort_keys=True,
    )
