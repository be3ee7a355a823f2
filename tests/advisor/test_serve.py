import pytest

from the_block_llm.advisor.serve import check_exposure
from the_block_llm.errors import ServerError

KEY = "k" * 16


@pytest.mark.parametrize(
    ("host", "key", "message"),
    [
        ("127.0.0.1", None, None),
        ("::1", None, None),
        ("localhost", KEY, None),
        ("0.0.0.0", KEY, None),
        ("0.0.0.0", None, "a key is needed"),
        ("::", None, "a key is needed"),
        ("192.168.0.7", None, "a key is needed"),
        ("some-box", None, "a key is needed"),
        ("127.0.0.1.example.org", None, "a key is needed"),
        ("127.0.0.1", "short", "at least 16"),
    ],
)
def test_external_addresses_require_a_key(host, key, message):
    if message is None:
        check_exposure(host, key)
    else:
        with pytest.raises(ServerError, match=message):
            check_exposure(host, key)
