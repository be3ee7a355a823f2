"""Digests of code and libraries: what a cache was made with is part of its key."""

import hashlib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parent


def source_digest(sources: Iterable[str], package: Path = PACKAGE) -> str:
    """Return a digest of modules; one that is edited, moved, added or removed changes it.

    Args:
        sources: Modules and folders of modules, relative to the package.
        package: Folder of ``the_block_llm``.
    """
    digest = hashlib.sha256()
    for source in sources:
        path = package / source
        for module in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            content = module.read_bytes()
            name = module.relative_to(package).as_posix()
            digest.update(f"{name} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()[:16]


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each distribution."""
    return {name: version(name) for name in names}
