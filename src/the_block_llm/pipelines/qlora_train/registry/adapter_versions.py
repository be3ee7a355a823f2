"""What adapters there are, how two differ, and which could go. No torch: it answers at once."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from the_block_llm.errors import AdapterError, StorageError
from the_block_llm.models.adapter.manifest import AdapterFolder, list_adapters
from the_block_llm.pipelines.qlora_train.flatten import dotted

_SHOWN_CHARACTERS: Final = 80


@dataclass(frozen=True)
class AdapterVersion:
    """One line of the list."""

    profile: str
    version: str
    path: Path
    created_at: str
    steps: int | None
    validation_loss_before: float | None
    validation_loss_after: float | None
    git_commit: str | None
    size_bytes: int
    is_latest: bool
    is_best: bool
    """Lowest validation loss of its profile among those trained on the same rows as the latest;
    losses on other rows cannot be compared."""


def adapter_versions(folder: Path, profile: str | None = None) -> list[AdapterVersion]:
    """All complete adapters under ``folder``, by profile, oldest first.

    Args:
        folder: Holds a folder for each profile.
        profile: Only of this one.
    """
    names = sorted(path.name for path in folder.glob("*/") if not path.name.startswith("."))
    found: list[AdapterVersion] = []
    for name in names if profile is None else [profile]:
        found += _versions_of(name, list_adapters(folder / name))
    return found


def compare_versions(folder: Path, first: str, second: str) -> list[tuple[str, str, str]]:
    """Where two adapters differ: name, value in the first, value in the second.

    Args:
        folder: Holds a folder for each profile.
        first: A version, or ``profile/version``.
        second: Likewise.

    Raises:
        AdapterError: There is no such version.
    """
    one, two = (_facts(_find(folder, version)) for version in (first, second))
    return [
        (name, _shown(one.get(name)), _shown(two.get(name)))
        for name in sorted({*one, *two})
        if one.get(name) != two.get(name)
    ]


def prunable(versions: Sequence[AdapterVersion], keep: int = 1) -> list[AdapterVersion]:
    """Those that are neither among the newest ``keep`` of their profile nor its best."""
    gone: list[AdapterVersion] = []
    for profile in sorted({version.profile for version in versions}):
        mine = [version for version in versions if version.profile == profile]
        gone += [version for version in mine[: max(0, len(mine) - keep)] if not version.is_best]
    return gone


def delete_versions(versions: Sequence[AdapterVersion]) -> None:
    """Remove adapter folders for good.

    Raises:
        StorageError: One cannot be removed; those before it are gone.
    """
    for version in versions:
        try:
            # Out of sight in one step: half a folder must never look like an adapter.
            hidden = version.path.with_name(f".removed-{version.path.name}")
            version.path.rename(hidden)
            shutil.rmtree(hidden)
        except OSError as error:
            raise StorageError(
                f"The adapter {version.path} cannot be removed: {error.strerror}. Make its folder "
                "writable, then prune again."
            ) from error


def _versions_of(profile: str, adapters: Sequence[AdapterFolder]) -> Iterator[AdapterVersion]:
    if not adapters:
        return
    latest = adapters[-1]
    alike = [a for a in adapters if a.manifest.data_hashes == latest.manifest.data_hashes]
    measured = [a for a in alike if a.manifest.metrics.get("validation_loss_after") is not None]
    best = min(measured, key=lambda a: a.manifest.metrics["validation_loss_after"], default=None)
    for adapter in adapters:
        metrics = adapter.manifest.metrics
        yield AdapterVersion(
            profile=profile,
            version=adapter.path.name,
            path=adapter.path,
            created_at=adapter.manifest.created_at,
            steps=metrics.get("steps_done"),
            validation_loss_before=metrics.get("validation_loss_before"),
            validation_loss_after=metrics.get("validation_loss_after"),
            git_commit=adapter.manifest.git_commit,
            size_bytes=sum(f.stat().st_size for f in adapter.path.rglob("*") if f.is_file()),
            is_latest=adapter is latest,
            is_best=adapter is best,
        )


def _find(folder: Path, version: str) -> AdapterFolder:
    profile, _, name = version.rpartition("/")
    known = adapter_versions(folder, profile or None)
    matches = [one for one in known if one.version == name]
    if len(matches) != 1:
        listed = ", ".join(f"{one.profile}/{one.version}" for one in known) or "none"
        raise AdapterError(
            f"There is no adapter {version!r} in {folder}. There are: {listed}."
            if not matches
            else f"{version!r} is the name of {len(matches)} adapters; say which: {listed}."
        )
    return next(a for a in list_adapters(matches[0].path.parent) if a.path == matches[0].path)


def _facts(adapter: AdapterFolder) -> dict[str, Any]:
    return dict(dotted(adapter.manifest.model_dump(mode="json", exclude={"format"})))


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"
