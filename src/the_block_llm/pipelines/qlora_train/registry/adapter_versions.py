"""Trained adapter versions: list, compare, prune. Does not import torch, which is slow."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from the_block_llm.errors import AdapterError, StorageError
from the_block_llm.models.adapter.manifest import AdapterFolder, list_adapters
from the_block_llm.os_errors import explain
from the_block_llm.pipelines.qlora_train.flatten import flatten

_MAX_VALUE_CHARACTERS: Final = 80


@dataclass(frozen=True)
class AdapterVersion:
    """One trained adapter."""

    profile: str
    version: str
    path: Path
    steps: int | None
    validation_loss_before: float | None
    validation_loss_after: float | None
    git_commit: str | None
    size_bytes: int
    is_latest: bool
    is_best: bool
    """Whether it has the lowest validation loss among the versions of its profile that were trained
    on the same rows as the latest; losses on other rows cannot be compared."""


def list_adapter_versions(folder: Path, profile: str | None = None) -> list[AdapterVersion]:
    """Return all complete adapters under ``folder``, by profile, oldest first.

    Args:
        folder: Has a subfolder for each profile.
        profile: Return the versions of this profile only.
    """
    names = sorted(path.name for path in folder.glob("*/") if not path.name.startswith("."))
    found: list[AdapterVersion] = []
    for name in names if profile is None else [profile]:
        found += _versions_of(name, list_adapters(folder / name))
    return found


def compare_versions(folder: Path, first: str, second: str) -> list[tuple[str, str, str]]:
    """Compare the manifests of two adapters.

    Args:
        folder: Has a subfolder for each profile.
        first: A version, or ``profile/version``.
        second: A version, or ``profile/version``.

    Returns:
        Dotted name, value in the first and value in the second, of each field that differs.

    Raises:
        AdapterError: There is no such version, or several profiles have it.
    """
    one, two = (_manifest_fields(_find(folder, version)) for version in (first, second))
    return [
        (name, _format_value(one.get(name)), _format_value(two.get(name)))
        for name in sorted({*one, *two})
        if one.get(name) != two.get(name)
    ]


def versions_to_prune(versions: Sequence[AdapterVersion], keep: int) -> list[AdapterVersion]:
    """Return the versions that are not among the newest ``keep`` of their profile, nor its best."""
    pruned: list[AdapterVersion] = []
    for profile in sorted({version.profile for version in versions}):
        candidates = [version for version in versions if version.profile == profile]
        older = candidates[: max(0, len(candidates) - keep)]
        pruned += [version for version in older if not version.is_best]
    return pruned


def delete_versions(versions: Sequence[AdapterVersion]) -> None:
    """Delete adapter folders, and what an interrupted call has left of others beside them.

    Raises:
        StorageError: A folder cannot be deleted; those before it are already deleted.
    """
    for version in versions:
        hidden = version.path.with_name(f".removed-{version.path.name}")
        try:
            # Renamed first, which is atomic: a partly deleted folder must not look like an adapter.
            with suppress(FileNotFoundError):  # deleted by another process since it was listed
                version.path.rename(hidden)
            if hidden.exists():
                shutil.rmtree(hidden)
        except OSError as error:
            raise StorageError(
                f"The adapter {version.path} cannot be deleted: {explain(error)} Then prune again."
            ) from error
    for folder in {version.path.parent for version in versions}:
        for leftover in folder.glob(".removed-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _versions_of(profile: str, adapters: Sequence[AdapterFolder]) -> Iterator[AdapterVersion]:
    if not adapters:
        return
    latest = adapters[-1]
    comparable = [
        a
        for a in adapters
        if a.manifest.data_hashes == latest.manifest.data_hashes
        and a.manifest.metrics.get("validation_loss_after") is not None
    ]
    best = min(comparable, key=lambda a: a.manifest.metrics["validation_loss_after"], default=None)
    for adapter in adapters:
        metrics = adapter.manifest.metrics
        yield AdapterVersion(
            profile=profile,
            version=adapter.path.name,
            path=adapter.path,
            steps=metrics.get("steps_done"),
            validation_loss_before=metrics.get("validation_loss_before"),
            validation_loss_after=metrics.get("validation_loss_after"),
            git_commit=adapter.manifest.git_commit,
            size_bytes=_size_of(adapter.path),
            is_latest=adapter is latest,
            is_best=adapter is best,
        )


def _size_of(folder: Path) -> int:
    n_bytes = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # deleted by another process in this moment
            n_bytes += path.stat().st_size if path.is_file() else 0
    return n_bytes


def _find(folder: Path, version: str) -> AdapterFolder:
    profile, _, name = version.rpartition("/")
    available = list_adapter_versions(folder, profile or None)
    matches = [candidate for candidate in available if candidate.version == name]
    if len(matches) != 1:
        names = ", ".join(f"{found.profile}/{found.version}" for found in available) or "none"
        raise AdapterError(
            f"There is no adapter {version!r} in {folder}. Available: {names}."
            if not matches
            else f"{version!r} is the name of {len(matches)} adapters; specify one of: {names}."
        )
    return next(a for a in list_adapters(matches[0].path.parent) if a.path == matches[0].path)


def _manifest_fields(adapter: AdapterFolder) -> dict[str, Any]:
    return dict(flatten(adapter.manifest.model_dump(mode="json", exclude={"format"})))


def _format_value(value: Any) -> str:
    if value is None:
        return "–"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    if len(text) <= _MAX_VALUE_CHARACTERS:
        return text
    return f"{text[: _MAX_VALUE_CHARACTERS - 1]}…"
