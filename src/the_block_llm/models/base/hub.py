"""Access to the Hugging Face Hub: one bounded request before anything is loaded from it.

huggingface_hub and transformers repeat each request of each file, so that without a network an
error takes more than a minute. Does not import torch or transformers.
"""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import logging as hub_logging

from the_block_llm.errors import ModelUnavailableError
from the_block_llm.models.profiles import ModelProfile

_log = logging.getLogger(__name__)
_CONFIG: Final = "config.json"
_TIMEOUT_VARIABLE: Final = "HF_HUB_ETAG_TIMEOUT"
_TIMEOUT_S: Final = 3.0
_TIMEOUT_WITH_CACHE_S: Final = 2.0
_MAX_REASON_CHARACTERS: Final = 200
_uses_cache: Final[dict[tuple[str, str], bool]] = {}
"""By Hub id and revision: whether the Hub did not answer, so that the cached copy is used."""


def uses_hub(profile: ModelProfile) -> bool:
    """Return whether the profile's files come from the Hub."""
    return profile.folder is None and profile.hub_id is not None


def hub_revision(profile: ModelProfile) -> str:
    """Return the revision to request from the Hub; ignored for folders."""
    return profile.hub_revision or "main"


def check_hub(profile: ModelProfile) -> None:
    """Check that the profile's files can be requested from the Hub, or are in the local cache.

    The answer is remembered for the lifetime of the process, a failure is not. A profile whose
    files come from elsewhere passes.

    Raises:
        ModelUnavailableError: The Hub cannot be reached or refuses the model, and no copy is
            cached. The message comes within seconds.
    """
    if not uses_hub(profile):
        return
    key = str(profile.hub_id), hub_revision(profile)
    if key in _uses_cache:
        return
    cached = isinstance(try_to_load_from_cache(key[0], _CONFIG, revision=key[1]), str)
    if constants.HF_HUB_OFFLINE:
        if not cached:
            raise ModelUnavailableError(
                f"HF_HUB_OFFLINE is set, but {profile.hub_id} is not in the cache "
                f"{constants.HF_HUB_CACHE}. Unset it, or {_remedy(profile)}"
            )
        return
    _log.info("Requesting %s from the Hub", profile.hub_id, extra={"markup": False})
    try:
        _request_metadata(profile, _TIMEOUT_WITH_CACHE_S if cached else _TIMEOUT_S)
    except _NoAnswerError as error:
        if not cached:
            raise ModelUnavailableError(
                f"{profile.hub_id} cannot be requested from {constants.ENDPOINT}: {error}. Check "
                f"the network (HF_ENDPOINT sets a mirror, HTTPS_PROXY a proxy), or "
                f"{_remedy(profile)}"
            ) from error
        _log.warning(
            "%s cannot be requested from the Hub (%s); the cached copy is used",
            profile.hub_id, error, extra={"markup": False},
        )  # fmt: skip
        _uses_cache[key] = True
    else:
        _uses_cache[key] = False


@contextmanager
def hub_access(profile: ModelProfile) -> Iterator[None]:
    """Check the Hub, then read from it, or only from the cache if it cannot be reached.

    Raises:
        ModelUnavailableError: See :func:`check_hub`.
    """
    check_hub(profile)
    is_offline, verbosity = constants.HF_HUB_OFFLINE, hub_logging.get_verbosity()
    if _uses_cache.get((str(profile.hub_id), hub_revision(profile))):
        constants.HF_HUB_OFFLINE = True
    # Otherwise each repeated request logs two warnings.
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = is_offline
        hub_logging.set_verbosity(verbosity)


def refused_message(profile: ModelProfile, error: Exception) -> str | None:
    """Return the message for an answer of the Hub that refuses the model; None for others."""
    name = profile.hub_id
    if isinstance(error, GatedRepoError):
        return (
            f"{name} is gated. Accept its license at {constants.ENDPOINT}/{name} and set HF_TOKEN, "
            f"or {_remedy(profile)}"
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"{name} has no revision {profile.hub_revision} on the Hub. Correct "
            f"models.{profile.name}.hub_revision."
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{name} does not exist on the Hub, or is private and HF_TOKEN is missing or wrong. "
            f"Correct models.{profile.name}.hub_id or set HF_TOKEN, or {_remedy(profile)}"
        )
    if isinstance(error, EntryNotFoundError):
        return f"{name} contains no {_CONFIG} on the Hub. Correct models.{profile.name}.hub_id."
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in {401, 403}:
        return (
            f"The Hub refuses {name} (status {status}). Set HF_TOKEN to a token that may read it, "
            f"or {_remedy(profile)}"
        )
    return None


def incomplete_message(profile: ModelProfile, error: Exception) -> str:
    """Return the message for a download that failed after the Hub had answered."""
    return (
        f"{profile.hub_id} cannot be read completely from {constants.ENDPOINT} or the cache "
        f"{constants.HF_HUB_CACHE}: {_reason(error)}. Run again when the network is stable, or "
        f"{_remedy(profile)}"
    )


class _NoAnswerError(Exception):
    """The Hub cannot be reached, or its answer is not one of the Hub."""


def _request_metadata(profile: ModelProfile, timeout_s: float) -> None:
    """Request the metadata of one small file.

    Raises:
        ModelUnavailableError: The Hub refuses the model.
        _NoAnswerError: There is no answer within ``timeout_s``, or the variable that overrides it.
    """
    timeout_s = float(os.environ.get(_TIMEOUT_VARIABLE) or timeout_s)
    url = hf_hub_url(str(profile.hub_id), _CONFIG, revision=hub_revision(profile))
    problems: list[Exception] = []

    def request() -> None:
        try:
            metadata = get_hf_file_metadata(url, token=None, timeout=timeout_s)
            if metadata.commit_hash is None:
                problems.append(_NoAnswerError("the answer is not one of the Hub"))
        except Exception as error:  # noqa: BLE001  # its cause is reported below
            problems.append(error)

    # In a thread, since no timeout applies to the resolution of names and to a slow answer as a
    # whole. As a daemon it does not keep the process from ending.
    thread = threading.Thread(target=request, name="hub-request", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise _NoAnswerError(f"no answer within {timeout_s:g} s ({_TIMEOUT_VARIABLE})")
    if problems:
        message = refused_message(profile, problems[0])
        if message is not None:
            raise ModelUnavailableError(message) from problems[0]
        raise _NoAnswerError(_reason(problems[0])) from problems[0]


def _reason(error: Exception) -> str:
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return f"status {error.response.status_code}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")[:_MAX_REASON_CHARACTERS]


def _remedy(profile: ModelProfile) -> str:
    return (
        f"set models.{profile.name}.folder to a folder with the weights "
        f"(--params=models.{profile.name}.folder=PATH), download it elsewhere, copy the cache "
        "(HF_HOME) here and set HF_HUB_OFFLINE=1, or choose the embedded default smollm2-135m as "
        "the model."
    )
