"""Addresses of people are masked; names with an @ that are none are kept."""

import pytest

from the_block_llm.pipelines.git_ingest.redaction.email_addresses import personal_addresses
from the_block_llm.pipelines.git_ingest.redaction.redactor import Redactor

_REDACTOR = Redactor(secrets=False, emails=True)
_CONTEXTS = ("{}", "see {}.", '"{}"', "<{}>", "a/{}", "({})", "x={}", "- {}\n", "`{}`,")


@pytest.mark.parametrize("context", [c for c in _CONTEXTS if "/" not in c])
@pytest.mark.parametrize(
    "address",
    [
        "bob@corp.dev", "ann.roe+x@mail.corp.co.uk", "a_b@posteo.de", "x1@sub-domain.io",
        "anna@posteo.rs", "me@company.md", "joe@firm.cc", "o'neil@corp.dev"[2:], "b%c@corp.dev",
        "12345+bob@users.noreply.github.com", "bob@xn--mnchen-3ya.de",
    ],
)  # fmt: skip
def test_addresses_are_found(context: str, address: str) -> None:
    line = context.format(address)
    assert [line[s:e] for s, e, _ in personal_addresses(line)] == [address]


@pytest.mark.parametrize("context", _CONTEXTS)
@pytest.mark.parametrize(
    "name",
    [
        "icon@2x.png", "icon@3x.png", "Icon-App-60x60@2x.png", "logo@1.5x.webp", "a@2x.pdf",
        "area@one.service", "getty@tty1.service", "unit@1.service", "vpn@home.conf", "x@.service",
        "react@18.2.0", "@types/node@20.1.0", "lodash@4.17.21", "actions/checkout@v4.1.0",
        "git@github.com", "user@example.com", "root@localhost", "a@b.test", "style@dark.css",
        "name@host.py", "font@regular.woff2", "data@2024.json", "@media", "@angular/core",
    ],
)  # fmt: skip
def test_names_with_an_at_sign_are_kept(context: str, name: str) -> None:
    if name == "name@host.py" and "/" not in context:
        pytest.skip("without a folder before it, an address in Paraguay")
    assert list(personal_addresses(context.format(name))) == []


def test_paths_stay_unique_whatever_is_masked() -> None:
    token = "gh" + "p_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
    other = token[:-4] + "Zz9X"
    paths = ["mail/bob@corp.dev.eml", "mail/ann@corp.dev.eml"]
    paths += ["users/bob@corp.dev/a", "users/bob@corp.dev/b"]
    paths += [f"dump/{token}.txt", f"dump/{other}.txt"]
    changed = Redactor(secrets=True, emails=True).redact_paths(paths)
    masked = [changed[i].text if i in changed else path for i, path in enumerate(paths)]
    assert len(set(masked)) == len(paths)
    assert not any("@corp" in path or token in path or other in path for path in masked)
    # The files of one folder stay in one folder.
    assert masked[2].rpartition("/")[0] == masked[3].rpartition("/")[0]
