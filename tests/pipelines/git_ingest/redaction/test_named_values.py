"""A grid of names, syntaxes and values is masked; references and placeholders are kept."""

import random
import re
from collections import Counter
from typing import NamedTuple

import pytest
from tests.pipelines.git_ingest.redaction import grid

from the_block_llm.pipelines.git_ingest.redaction.credential_names import credential_of
from the_block_llm.pipelines.git_ingest.redaction.redactor import Redactor

_REDACTOR = Redactor(secrets=True, emails=False)
_PLACEHOLDER = re.compile(r"\[REDACTED:[\w-]+\]")
_NAMES_EACH = 8


class _Case(NamedTuple):
    syntax: str
    kind: str
    path: str
    text: str
    value: str
    """As written in the text."""


def _cases() -> list[_Case]:
    rng = random.Random(20)
    names = list(dict.fromkeys(grid.names()))
    cases = []
    for key, syntax in grid.SYNTAXES.items():
        for kind in grid.VALUES:
            for name in rng.sample(names, _NAMES_EACH):
                if key == "yaml list" and (name.endswith("s") or name[-1].isdigit()):
                    continue
                written = syntax.escape(grid.value(kind, rng, syntax.without))
                text = syntax.template.format(name=name, option=grid.kebab(name), value=written)
                cases.append(_Case(key, kind, syntax.path, text, written))
    for key, (path, template) in grid.COMMANDS.items():
        for kind in ("letters", "lower letters and digits", "alphanumeric", "sixty"):
            if key == "basic header" and kind != "sixty":
                continue  # a token of less than 16 characters is none
            value = grid.value(kind, rng)
            cases.append(_Case(key, kind, path, template.format(value=value), value))
    return cases


_CASES = _cases()
_CHANGED = _REDACTOR.redact([case.text for case in _CASES], [case.path for case in _CASES])
_MASKED = [_CHANGED[i].text if i in _CHANGED else case.text for i, case in enumerate(_CASES)]


def _is_masked(case: _Case, masked: str) -> bool:
    quarter = max(4, len(case.value) // 4)
    parts = [case.value[i : i + quarter] for i in range(len(case.value) - quarter + 1)]
    return not any(part in masked for part in parts)


def test_at_least_99_percent_of_the_grid_are_masked() -> None:
    missed = [c for c, masked in zip(_CASES, _MASKED, strict=True) if not _is_masked(c, masked)]
    assert len(_CASES) > 8_000
    assert len(missed) <= len(_CASES) / 100, Counter(case.syntax for case in missed)


@pytest.mark.parametrize("syntax", [*grid.SYNTAXES, *grid.COMMANDS])
def test_every_syntax_is_known(syntax: str) -> None:
    # No syntax hides behind the percentage of the whole grid.
    outcomes = [
        _is_masked(case, masked)
        for case, masked in zip(_CASES, _MASKED, strict=True)
        if case.syntax == syntax
    ]
    assert sum(outcomes) >= 0.9 * len(outcomes)


def test_names_and_structure_are_left() -> None:
    changed = [
        (case, masked)
        for case, masked in zip(_CASES, _MASKED, strict=True)
        if _is_masked(case, masked)
        and _PLACEHOLDER.sub("", masked) != case.text.replace(case.value, "")
    ]
    assert len(changed) <= len(_CASES) / 200, changed[:10]


@pytest.mark.parametrize("name", ["password", "DB_PASSWORD", "apiKey", "client_secret"])
@pytest.mark.parametrize(
    "value",
    [
        "${DB_PASSWORD}", "$DB_PASSWORD", "$(cat /run/secrets/db)", "{{ db_password }}", "%s",
        "<%= ENV['X'] %>", "#{password}", "{password}", "<password>", "[password]", "%DB_PASSWORD%",
        "changeme", "change-me", "xxxxxxxx", "********", "...", "your-api-key", "YOUR_API_KEY",
        "example", "<your token here>", "TODO", "/run/secrets/db", "/etc/mosquitto/passwd",
        "./secrets/db.txt", "https://vault.corp.dev/x", "arn:aws:secretsmanager:x", "password",
        "secret", "null", "none", "true", "REPLACE_ME", "op://vault/item", "__PASSWORD__",
    ],
)  # fmt: skip
def test_references_and_placeholders_are_left(name: str, value: str) -> None:
    texts = [f'{name} = "{value}"\n', f"{name}: '{value}'\n", f'"{name}": "{value}",\n']
    for path in ("app.py", "app.yml", "app.json", "main.tf", "run.sh"):
        assert _REDACTOR.redact(texts, [path] * 3) == {}


@pytest.mark.parametrize(
    "line",
    [
        'password = getpass("Password: ")',
        'let password = rpassword::prompt_password("Password: ").unwrap();',
        "password=passwd1)",
        "token = next_token2(stream)",
        'token = tokens["Identifier3"]',
        "def set_password(self, password: str) -> None:",
        'labels = {"password": "Enter your password", "token": "Token"}',
        'PASSWORD_FIELD = "user_password"',
        "self.token_bucket_size = 8192",
        "#define CKF_CLOCK_ON_TOKEN (1UL << 6)",
        "#define SOCKS_AUTH_GSS 0x01U",
        'hostkey_method_ssh_ecdsa_384[] = "ecdsa-sha2-nistp384";',
        'static const char header[] = "-----BEGIN OPENSSH PRIVATE KEY-----";',
        'tokenType: "bearer",',
        '"github-token": r"gh[pousr]_[A-Za-z0-9]{36,}",',
        "if (!password) { return error; }",
        'password_file = "data/pwfile"',
        "const char *pw_password = authctxt->valid ? shadow_pw(pw) : pw->pw_passwd;",
        "the password is not the one that was set in 2024",
    ],
)
def test_code_about_credentials_is_left(line: str) -> None:
    assert _REDACTOR.redact([line + "\n"], ["src/app.c"]) == {}


def test_the_value_is_found_in_its_own_version_of_a_patch() -> None:
    old, new = "Kx8vTq2" + "LmW4z", "Pw5nRb9" + "GhJ7c"
    patch = (
        "@@ -1,3 +1,3 @@\n   - name: DB_PASSWORD\n"
        f"-    value: {old}\n+    value: {new}\n     x: 1\n"
    )
    redacted = _REDACTOR.redact([patch], ["pod.yaml"])[0]
    assert redacted.text == patch.replace(old, "[REDACTED:password]").replace(
        new, "[REDACTED:password]"
    )
    assert [finding.line for finding in redacted.findings] == [3, 4]


@pytest.mark.parametrize(
    "name",
    [
        "password_file", "passwordHash", "TOKEN_TYPE", "secretName", "api_key_id", "token_count",
        "bypass", "tokenizer", "compass", "passthrough", "pass_rate", "secret_key_bytes",
    ],
)  # fmt: skip
def test_properties_of_credentials_are_none(name: str) -> None:
    assert credential_of(name) is None


def test_values_in_tests_are_masked_only_if_they_look_generated() -> None:
    made_up, generated = "hunter2pass", "Qx7tLm2" + "vWz9p"
    for value, is_masked in ((made_up, False), (generated, True)):
        for path in ("tests/test_login.py", "spec/login_spec.rb", "src/test/java/LoginTest.java"):
            changed = _REDACTOR.redact([f'password = "{value}"\n'], [path])
            assert bool(changed) == is_masked


def test_texts_of_a_user_interface_are_left() -> None:
    lines = ['"password": "Mot de passe"', '"password": "Passwort"', '"token": "Jeton"']
    assert _REDACTOR.redact(lines, ["src/i18n/fr.json"] * 3) == {}
