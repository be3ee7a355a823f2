"""Base weights kept as they were quantised, so that a model is not quantised at every start.

The copy gives the very same weights; loading it takes a tenth of the time and, for an 8B
model, reads a third of the bytes.
"""

import hashlib
import json
import logging
import shutil
import uuid
from pathlib import Path
from typing import Final

import bitsandbytes
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from the_block_llm.models.base.quantized_loading import compute_dtype, load_base_model
from the_block_llm.models.base.sources import base_revision, prepare_base_model, quiet_loading
from the_block_llm.models.profiles import ModelProfile

_log = logging.getLogger(__name__)
_STAMP: Final = "quantised_from.json"


def load_quantised(profile: ModelProfile, device: torch.device, folder: Path) -> PreTrainedModel:
    """The profile's base as :func:`load_base_model` gives it, from its copy where there is one.

    Args:
        profile: Which model.
        device: Where to.
        folder: Where copies are kept; one is written where there is none.

    Raises:
        ModelUnavailableError: The weights cannot be had.
    """
    stamp = _stamp(profile, device)
    digest = hashlib.sha256(stamp.encode()).hexdigest()[:12]
    copy = folder / f"{profile.name}.nf4-{digest}"
    if (copy / _STAMP).is_file():
        with quiet_loading():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                copy,
                dtype=compute_dtype(device),
                device_map={"": str(device)},
                attn_implementation="sdpa",
                use_safetensors=True,
                trust_remote_code=False,
            )
        return model.requires_grad_(False)
    model = load_base_model(profile, device)
    _keep(model, stamp, copy)
    return model


def _keep(model: PreTrainedModel, stamp: str, copy: Path) -> None:
    unfinished = copy.with_name(f".{copy.name}.{uuid.uuid4().hex}.unfinished")
    try:
        with quiet_loading():
            model.save_pretrained(unfinished)
        (unfinished / _STAMP).write_text(stamp, encoding="utf-8")
        name = copy.name.rpartition("-")[0]
        for outdated in copy.parent.glob(f"{name}-*"):
            shutil.rmtree(outdated, ignore_errors=True)
        unfinished.rename(copy)
    except OSError as error:
        # Only time is lost; the model itself is there.
        _log.warning(
            "The quantised weights cannot be kept in %s (%s): the next start quantises again.",
            copy.parent, error, extra={"markup": False},
        )  # fmt: skip
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _stamp(profile: ModelProfile, device: torch.device) -> str:
    """Everything that decides the quantised weights."""
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
            "bitsandbytes": bitsandbytes.__version__,
            "transformers": transformers.__version__,
        },
        sort_keys=True,
    )
