"""Private keys are masked whole, and nothing that only names one."""

import base64
import random

import pytest

from the_block_llm.pipelines.git_ingest.redaction.redactor import Redactor

_REDACTOR = Redactor(secrets=True, emails=False)
_RNG = random.Random(5)
_KINDS = ("RSA ", "EC ", "DSA ", "OPENSSH ", "ENCRYPTED ", "")


def _body(n_bytes: int) -> list[str]:
    text = base64.b64encode(_RNG.randbytes(n_bytes)).decode()
    return [text[i : i + 64] for i in range(0, len(text), 64)]


def _key(kind: str, body: list[str]) -> list[str]:
    name = kind + "PRIVATE" + " KEY"  # so that scanners do not report this file
    return [f"-----BEGIN {name}-----", *body, f"-----END {name}-----"]


_STYLES = {
    "plain": "{}",
    "indented": "      {}",
    "C": '  "{}\\n"',
    "python": '    "{}\\n"',
    "comment": "// {}",
    "shell": "echo '{}' >> key",
    "added": "+{}",
}


@pytest.mark.parametrize("style", [s for s in _STYLES if s != "shell"])
@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("n_bytes", [49, 121, 1190])
def test_the_body_is_masked_and_the_lines_around_are_kept(
    style: str, kind: str, n_bytes: int
) -> None:
    body = _body(n_bytes)
    lines = [_STYLES[style].format(line) for line in _key(kind, body)]
    text = "\n".join(["int before = 1;", *lines, "return continue;", "int after = 2;"])
    redacted = _REDACTOR.redact([text], ["src/key.c"])[0]
    assert not any(line in redacted.text for line in body)
    masked = redacted.text.split("\n")
    assert (masked[0], masked[-2:]) == ("int before = 1;", ["return continue;", "int after = 2;"])
    assert len(masked) == len(text.split("\n"))
    assert [finding.kind for finding in redacted.findings] == ["private-key"]


def test_a_key_on_one_line_is_masked() -> None:
    body = _body(600)
    for newline in ("\\n", "\\r\\n"):
        line = f'key: "{newline.join(_key("RSA ", body))}{newline}", port: 1'
        redacted = _REDACTOR.redact([line], ["app.yml"])[0].text
        assert not any(part in redacted for part in body)
        assert redacted.endswith("port: 1")


@pytest.mark.parametrize(("first", "last"), [(0, 8), (5, 99)])
def test_a_part_of_a_key_in_a_patch_is_masked(first: int, last: int) -> None:
    body = _body(1190)
    part = _key("RSA ", body)[first:last]
    patch = f"@@ -1,{len(part)} +0,0 @@\n" + "".join(f"-{line}\n" for line in part)
    redacted = _REDACTOR.redact([patch], ["deploy/key.txt"])[0].text
    assert not any(line in redacted for line in body)
    assert redacted.count("\n") == patch.count("\n")


def test_the_words_of_a_header_alone_mask_nothing() -> None:
    begin, end = _key("OPENSSH ", [])
    code = f"""
#define MARK_BEGIN "{begin}\\n"
#define MARK_END   "{end}\\n"
static int parse(const char *text)
{{
    if (strncmp(text, MARK_BEGIN, sizeof(MARK_BEGIN)) != 0)
        return SSH_ERR_INVALID_FORMAT;
    continue;
    aVeryLongFunctionNameWithoutAnyOtherCharacterInIt
}}
pem = "{begin}" + body + "{end}"
grep -q '{begin}' file
"""
    assert _REDACTOR.redact([code], ["src/sshkey.c"]) == {}


def test_keys_of_test_material_are_left() -> None:
    text = "\n".join(_key("RSA ", _body(600)))
    assert _REDACTOR.redact([text] * 2, ["tests/keys/rsa.pem", "vectors/asymmetric/a.txt"]) == {}
