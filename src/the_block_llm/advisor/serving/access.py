"""Access to the server: loopback addresses, and the API key that other addresses require."""

import ipaddress
from typing import Final

from the_block_llm.errors import ServerError

KEY_VARIABLE: Final = "THE_BLOCK_API_KEY"
_MIN_KEY_CHARACTERS: Final = 16


def check_exposure(host: str, key: str | None) -> None:
    """Refuse to listen on an address that other machines can reach without a key.

    Raises:
        ServerError: The key is missing or too short.
    """
    if key is not None and len(key) < _MIN_KEY_CHARACTERS:
        raise ServerError(
            f"The key in {KEY_VARIABLE} has {len(key)} characters; at least "
            f"{_MIN_KEY_CHARACTERS} are required. Generate one with: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    if key is None and not is_loopback(host):
        raise ServerError(
            f"{host} can be reached from other machines, so a key is needed. Set the environment "
            f"variable {KEY_VARIABLE}, or serve on 127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the name or address.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "box")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
