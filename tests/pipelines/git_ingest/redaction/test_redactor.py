"""Marks stand where the secret was and nothing else of the line is lost."""

import pytest

from the_block_llm.pipelines.git_ingest.redaction.redactor import Redactor

# Put together here, so that nothing in this file looks like a secret.
_TOKEN = "gh" + "p_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
_RANDOM = "qZ8rT2vLx9Kp4WmN7sYb3HcJ6fGd1Ae5" + "uQiX"


@pytest.mark.parametrize("mark", ["+", "-", " "])
@pytest.mark.parametrize(
    ("line", "masked"),
    [
        (_RANDOM, "[REDACTED:high-entropy]"),
        (f"token = '{_TOKEN}'", "token = '[REDACTED:github-token]'"),
        ("mail bob@corp.dev", "mail <email>"),
    ],
)
def test_a_line_of_a_patch_keeps_its_mark(mark: str, line: str, masked: str) -> None:
    patch = f"@@ -1,2 +1,2 @@\n one\n{mark}{line}\n"
    found = Redactor(secrets=True, emails=True).redact([patch], ["a.py"])
    assert found[0].text == f"@@ -1,2 +1,2 @@\n one\n{mark}{masked}\n"
    assert [finding.line for finding in found[0].findings] == [3]


def test_lines_are_found_in_their_own_text() -> None:
    texts = ["one\ntwo", f"x\n\n{_RANDOM}", "", f"{_RANDOM}\nlast", "none", f"a\nb {_RANDOM}\n"]
    found = Redactor(secrets=True, emails=False).redact(texts, [""] * len(texts))
    lines = {index: [f.line for f in redacted.findings] for index, redacted in found.items()}
    assert lines == {1: [3], 3: [1], 5: [2]}
    assert found[5].text == "a\nb [REDACTED:high-entropy]\n"


def test_a_value_is_masked_in_every_language() -> None:
    text = f'größe = 1\nпароль = 1; api_key = "{_TOKEN}"  # ключ\n'
    found = Redactor(secrets=True, emails=True).redact([text.encode()], ["a.py"])
    assert _TOKEN not in found[0].text
    assert found[0].text.startswith("größe = 1\nпароль = 1; api_key")
