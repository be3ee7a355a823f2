"""Separates a user, password or token from a URL, so that none is stored, logged or shown."""

import base64
import re
from typing import Final
from urllib.parse import unquote

_WEB_URL: Final = re.compile(
    r"^(?P<scheme>https?://)(?P<user>[^:@/?#\s]*)(?::(?P<password>[^@/?#\s]*))?@", re.IGNORECASE
)
_USER_INFO: Final = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^/?#\s]*@", re.IGNORECASE)
_USER_NAME: Final = re.compile(r"(?:ssh|git)://[\w.-]+@", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """Remove what is before the host from every URL in ``text``; a user name of ssh stays.

    >>> without_credentials("https://ann:secret@example.org/project.git")
    'https://example.org/project.git'
    >>> without_credentials("ssh://git@example.org/project.git")
    'ssh://git@example.org/project.git'
    """
    return _USER_INFO.sub(
        lambda found: found[0] if _USER_NAME.fullmatch(found[0]) else found["scheme"], text
    )


def credential_settings(url: str) -> dict[str, str]:
    """Return variables that give git the credentials of ``url`` for its host, and for no other.

    They are neither on a command line, which other users see, nor in the configuration of the
    clone. Needs git 2.31 or newer.
    """
    found = _WEB_URL.match(url)
    if found is None or (not found["user"] and not found["password"]):
        return {}
    host = re.split(r"[/?#]", url[found.end() :], maxsplit=1)[0]
    user, password = unquote(found["user"]), found["password"]
    if password is None:
        # A credential helper may know the password.
        name, key, value = "credential", "username", user
    else:
        encoded = base64.b64encode(f"{user}:{unquote(password)}".encode()).decode("ascii")
        name, key, value = "http", "extraHeader", f"Authorization: Basic {encoded}"
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"{name}.{found['scheme'].lower()}{host}/.{key}",
        "GIT_CONFIG_VALUE_0": value,
    }
