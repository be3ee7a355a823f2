"""A small repository with a learnable history: growing modules and documentation."""

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

_MODULES: Final = ("ledger", "consensus", "energy", "governance", "compute", "wallet")
_START: Final = datetime(2026, 1, 5, 9, tzinfo=UTC)


def build_toy_ledger(folder: Path) -> Path:
    """Write the repository; the commits are the same every time."""
    folder.mkdir(parents=True, exist_ok=True)
    _git(folder, "init", "--quiet", "--initial-branch=main")
    for number, (subject, body, changes) in enumerate(_history()):
        for path, text in changes.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        timestamp = (_START + timedelta(hours=7 * number)).isoformat()
        _git(folder, "add", "--all", timestamp=timestamp)
        _git(folder, "commit", "--quiet", "-m", f"{subject}\n\n{body}", timestamp=timestamp)
    return folder


def _history() -> list[tuple[str, str, dict[str, str]]]:
    steps: list[tuple[str, str, dict[str, str]]] = [
        ("docs: say what the toy ledger is", "", {"README.md": _readme()}),
        ("build: pin the toolchain", "", {"pyproject.toml": '[project]\nname = "toy-ledger"\n'}),
    ]
    for version in range(1, 6):
        for position, part in enumerate(_MODULES):
            module, document = f"toy/{part}.py", f"docs/{part}.md"
            changes = {module: _module(part, version)}
            if version % 2:
                changes[document] = _document(part, version)
            steps.append(
                (
                    (
                        f"{('feat', 'fix', 'refactor')[position % 3]}: let {part} settle {version} "
                        f"kinds of claim"
                    ),
                    (
                        f"The {part} module refused claims of kind {version}, because its table "
                        f"of {_MODULES[(position + 1) % len(_MODULES)]} limits was read only once."
                    ),
                    changes,
                )
            )
    return steps


def _readme() -> str:
    modules = "\n".join(f"- `toy/{part}.py` keeps the {part} claims" for part in _MODULES)
    return f"# Toy ledger\n\nA ledger that settles claims in rounds.\n\n{modules}\n"


def _module(part: str, version: int) -> str:
    functions = "\n\n".join(
        f"def settle_{part}_{kind}(claims: list[int]) -> int:\n"
        f'    """Settle the {part} claims of kind {kind}; the round ends when none is left."""\n'
        f"    total = {kind}\n"
        f"    for claim in claims:\n"
        f"        total += claim * {kind + version}\n"
        f"    return total"
        for kind in range(1, version + 2)
    )
    return f'"""Keeps the {part} claims of a round, version {version}."""\n\n\n{functions}\n'


def _document(part: str, version: int) -> str:
    return (
        f"# {part.capitalize()}\n\n"
        f"The {part} module settles {version} kinds of claim. A claim that is not settled in its "
        f"round is carried over, and after {version + 2} rounds it is void.\n\n"
        f"## Limits\n\nNo round settles more than {version * 100} {part} claims.\n"
    )


def _git(folder: Path, *arguments: str, timestamp: str | None = None) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "A Builder",
        "GIT_AUTHOR_EMAIL": "builder@example.org",
        "GIT_COMMITTER_NAME": "A Builder",
        "GIT_COMMITTER_EMAIL": "builder@example.org",
    }
    if timestamp is not None:
        environment |= {"GIT_AUTHOR_DATE": timestamp, "GIT_COMMITTER_DATE": timestamp}
    subprocess.run(["git", *arguments], cwd=folder, env=environment, check=True)
