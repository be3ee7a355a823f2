"""Who may reach the server: addresses of this machine, and the key that any other needs."""

import ipaddress
from typing import Final

from the_block_llm.errors import ServerError

KEY_VARIABLE: Final = "THE_BLOCK_API_KEY"
_SHORTEST_KEY: Final = 16


def check_exposure(host: str, key: str | None) -> None:
    """Refuse to be reachable by others without a key.

    Raises:
        ServerError: There is no key, or it is short enough to be guessed.
    """
    if key is not None and len(key) < _SHORTEST_KEY:
        raise ServerError(
            f"The key in {KEY_VARIABLE} has {len(key)} characters; at least {_SHORTEST_KEY} are "
            "needed. Make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    if key is None and not is_loopback(host):
        raise ServerError(
            f"{host} can be reached from other machines, so a key is needed. Put one into the "
            f"environment variable {KEY_VARIABLE}, or serve on 127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """True for names and addresses that only this machine can reach.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "box")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
