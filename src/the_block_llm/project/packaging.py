"""What `kedro package` puts into the archive of the configuration."""

from pathlib import Path
from typing import Final

from the_block_llm.errors import StorageError
from the_block_llm.pipelines.git_ingest.redaction.pseudonyms import FORMER_KEY_FILE

_LOCAL: Final = "local"
_PACKAGED_NAMES: Final = frozenset({".gitkeep"})


def check_packaged_configuration(conf: Path) -> None:
    """Check that no private file would be in the archive.

    Kedro leaves out ``*.yml`` in ``conf/local`` and archives everything else: keys, certificates,
    credentials in other formats, backups of editors.

    Args:
        conf: Folder of the configuration.

    Raises:
        StorageError: There are such files; the message names them.
    """
    private = [
        path.relative_to(conf.parent).as_posix()
        for path in sorted(conf.rglob("*"))
        if not path.is_dir() and _is_private(path.relative_to(conf))
    ]
    if not private:
        return
    key_hint = (
        f" The key of the pseudonyms belongs to .pseudonym.key: mv {FORMER_KEY_FILE} .pseudonym.key"
        if FORMER_KEY_FILE.as_posix() in private
        else ""
    )
    raise StorageError(
        f"kedro package would put private files into the archive of the configuration: "
        f"{', '.join(private)}. It leaves out only conf/local/*.yml. Move them out of conf, or "
        f"into such a file.{key_hint}"
    )


def _is_private(path: Path) -> bool:
    is_local = path.parts[0] == _LOCAL
    if is_local and path.suffix == ".yml":
        return False
    return (is_local and path.name not in _PACKAGED_NAMES) or path.name.startswith("credentials")
