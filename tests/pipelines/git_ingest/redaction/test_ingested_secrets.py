"""Planted secrets in files, old patches, messages and file names never reach a table.

The values are generated, so that scanners do not report this file.
"""

import random
import string
from pathlib import Path

import pytest
from tests.builders.git_repository import Content, GitRepository
from tests.pipelines.git_ingest.ingesting import IngestResult, ingest

from the_block_llm.pipelines.git_ingest.redaction.redactor import Redactor

_RNG = random.Random(7)
_ALNUM = string.ascii_letters + string.digits
_HEX = "0123456789abcdef"


def _random_text(n_characters: int, alphabet: str = _ALNUM) -> str:
    # At least one of each character class, as in real tokens.
    body = "".join(_RNG.choice(alphabet) for _ in range(n_characters - 3))
    return body + ("a7Q" if alphabet == _ALNUM else alphabet[:3])


def _random_number() -> int:
    return _RNG.randrange(1000, 10_000)


def _corpus() -> dict[str, tuple[str, str]]:
    """Return by kind a secret, and a line of text with %s for it."""
    upper = string.ascii_uppercase + string.digits
    jwt = f"eyJ{_random_text(30)}.eyJ{_random_text(60)}.{_random_text(43)}"
    return {
        "aws access key": ("AKIA" + _random_text(16, upper), "aws_access_key_id = %s"),
        "aws secret key": (_random_text(40), 'aws_secret_key = "%s"'),
        "anthropic": ("sk-ant-" + _random_text(40), "client = Client(%s)"),
        "azure account key": (_random_text(86) + "==", "AccountName=x;AccountKey=%s"),
        "basic auth url": (f"hunter{_random_number()}pass", "url: https://user:%s@host.example.org/db"),
        "database url": (f"s3cr3tPa{_random_number()}", "DATABASE_URL=postgres://app:%s@db:5432/app"),
        "bearer header": (_random_text(32), 'headers = {"Authorization": "Bearer %s"}'),
        "databricks": ("dapi" + _random_text(32, _HEX), "dbx %s"),
        "digitalocean": ("dop_v1_" + _random_text(64, _HEX), "do: %s"),
        "discord": (f"M{_random_text(23)}.{_random_text(6)}.{_random_text(27)}", "bot.run('%s')"),
        "docker": ("dckr_pat_" + _random_text(27), "docker login -p %s"),
        "github": ("ghp_" + _random_text(36), "gh = '%s'"),
        "github fine grained": ("github_pat_" + _random_text(82), "gh = '%s'"),
        "gitlab": ("glpat-" + _random_text(20), "ci: %s"),
        "google api key": ("AIza" + _random_text(35), "maps?key=%s"),
        "google oauth": ("GOCSPX-" + _random_text(28), "secret %s"),
        "hashicorp vault": ("hvs." + _random_text(90), "vault login %s"),
        "huggingface": ("hf_" + "".join(_RNG.choice(string.ascii_letters) for _ in range(34)),
                        "login(%s)"),
        "jwt": (jwt, "cookie %s"),
        "mailchimp": (_random_text(32, _HEX) + "-us12", "mc %s"),
        "npm": ("npm_" + _random_text(36), "//registry.npmjs.org/:_authToken=%s"),
        "openai": ("sk-proj-" + _random_text(60), "openai %s"),
        "password in yaml": (f"Tr0ub4dor&{_random_number()}", "password: %s"),
        "password in code": (f"correct-h0rse!{_random_number()}", 'db.connect(password="%s")'),
        "password option": (f"S3same0pen{_random_number()}", "mysql --password %s"),
        "connection string": (f"p4ssw0rd!{_random_number()}", "Server=db;User Id=sa;Password=%s;"),
        "api key": (_random_text(24), 'api_key = "%s"'),
        "hex secret": (_random_text(64, _HEX), 'private_key = "0x%s"'),
        "high entropy": (_random_text(44), 'value = "%s"'),
        "pypi": ("pypi-AgEIcHlwaS5vcmc" + _random_text(90), "twine -p %s"),
        "sendgrid": (f"SG.{_random_text(22)}.{_random_text(43)}", "mail %s"),
        "shopify": ("shpat_" + _random_text(32, _HEX), "shop %s"),
        "slack": ("xoxb-123456789012-" + _random_text(24), "slack %s"),
        "slack webhook": (f"T{_random_text(8, upper)}/B{_random_text(8, upper)}/{_random_text(24)}",
                          "https://hooks.slack.com/services/%s"),
        "stripe": ("sk_" + "live_" + _random_text(24), "stripe.key = '%s'"),
        "telegram": ("1234567890:" + _random_text(35), "bot %s"),
        "twilio": ("SK" + _random_text(32, _HEX), "twilio %s"),
        "mnemonic": ("zoo wrong yard zebra " * 2 + "young youth zone worth", 'mnemonic = "%s"'),
    }  # fmt: skip


LOCATIONS = ("settings", "code", "old patch", "message", "file name")
# Each location has its own values, so that each must be found separately.
CORPUS = {location: _corpus() for location in LOCATIONS}
_KEY_BODY = [_random_text(64) for _ in range(5)]
PRIVATE_KEY = "\n".join(
    ["-----BEGIN RSA " + "PRIVATE KEY-----", *_KEY_BODY, "-----END RSA " + "PRIVATE KEY-----"]
)


def _line(location: str, kind: str) -> str:
    secret, line = CORPUS[location][kind]
    return line % secret


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> IngestResult:
    folder = tmp_path_factory.mktemp("leaky")
    repository = GitRepository(folder / "project")
    files: dict[str | bytes, Content] = {}
    for index, kind in enumerate(CORPUS["code"]):
        lines = {location: _line(location, kind) for location in LOCATIONS}
        extra = "\n".join(f"setting_{i} = {i}" for i in range(5))
        files |= {
            f"settings/{index}.yml": f"{extra}\n{lines['settings']}\n",
            f"src/{index}.py": f"# {lines['code']}\n",
            f"src/forgotten{index}.py": f"# {lines['old patch']}\n",
        }
        if "//" not in lines["file name"]:  # not possible in a path
            files[f"named/{lines['file name']}.txt"] = f"{index}\n"
        repository.commit(f"Add setting {index}\n\nUse {lines['message']} there", files)
        files = {f"src/forgotten{index}.py": None}
    repository.commit("Forget the last", files)
    repository.commit("Key", {"deploy/notes.md": f"Use\n{PRIVATE_KEY}\nto log in.\n"})
    return ingest(repository.path, folder / "out")


def _all_text(result: IngestResult) -> str:
    return str(result.all_rows()) + str(result.report)


def test_at_least_99_percent_of_planted_secrets_are_masked(leaky: IngestResult) -> None:
    text = _all_text(leaky)
    planted = [(location, kind) for location in LOCATIONS for kind in CORPUS[location]]
    planted = [(p, k) for p, k in planted if p != "file name" or "//" not in _line(p, k)]
    assert len({kind for _, kind in planted}) >= 25
    unmasked = [(p, k) for p, k in planted if CORPUS[p][k][0] in text]
    assert len(unmasked) <= len(planted) / 100, unmasked


def test_private_key_blocks_are_masked_and_line_numbers_do_not_change(leaky: IngestResult) -> None:
    text = _all_text(leaky)
    assert not any(line in text for line in _KEY_BODY)
    rows = dict(leaky.rows("snapshot_files", "path", "text"))
    assert rows["deploy/notes.md"].count("\n") == 9
    assert rows["deploy/notes.md"].startswith("Use\n[REDACTED:private-key]\n")
    assert rows["deploy/notes.md"].endswith("\nto log in.\n")


def test_findings_list_path_and_line(leaky: IngestResult) -> None:
    findings = leaky.report["history"][0]["findings"]
    locations = {(f["path"], f["line"]) for f in findings}
    assert ("settings/0.yml", 6) in locations
    assert leaky.report["history"][0]["n_findings"] >= 4 * len(CORPUS["code"])


def test_placeholders_are_typed_and_counted(leaky: IngestResult) -> None:
    rows = {p: (t, n) for p, t, n in leaky.rows("snapshot_files", "path", "text", "redactions")}
    assert rows["src/0.py"] == ("# aws_access_key_id = [REDACTED:aws-access-key]\n", 1)


def test_redaction_can_be_turned_off(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    secret = CORPUS["code"]["github"][0]
    repository.commit("One", {"a.py": f"x = '{secret}'\n"})
    assert secret in _all_text(ingest(repository.path, tmp_path / "out", redact=False))


def test_people_become_stable_author_ids(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit(
        "One\n\nAsk bob@corp.dev about it.\n\nCo-authored-by: Bob Roe <bob@corp.dev>",
        {"a.md": "Mail bob@corp.dev or git@github.com:x/y\n"},
        author=("Bob Roe", "bob@corp.dev"),
    )
    first = ingest(repository.path, tmp_path / "out")
    ((author, body),) = first.rows("commits", "author_id", "body")
    assert author.startswith("author-")
    assert body == f"Ask <email> about it.\n\nCo-authored-by: {author}"
    assert first.rows("snapshot_files", "text") == [("Mail <email> or git@github.com:x/y\n",)]
    assert "Bob" not in _all_text(first)
    again = ingest(repository.path, tmp_path / "out")
    assert again.rows("commits", "author_id") == [(author,)]
    (tmp_path / "out" / "pseudonym.key").unlink()
    other = ingest(repository.path, tmp_path / "out")
    assert other.rows("commits", "author_id") != [(author,)]


def test_fewer_than_one_false_positive_per_thousand_lines_of_this_project() -> None:
    root = Path(__file__).parents[4]
    folders = ("src", "tests", "benchmarks", "conf", "docs")
    files = [
        file
        for folder in folders
        for file in sorted((root / folder).rglob("*"))
        if file.suffix in {".py", ".yml", ".md", ".toml"}
    ]
    texts = [file.read_text(encoding="utf-8") for file in files]
    found = Redactor(secrets=True, emails=False).redact(texts, [str(f) for f in files])
    n_findings = sum(len(redacted.findings) for redacted in found.values())
    n_lines = sum(text.count("\n") for text in texts)
    assert n_lines > 10_000
    assert n_findings < n_lines / 1000


@pytest.mark.parametrize(
    "line",
    [
        "See `docs/archive/PHASES_2-4_COMPLETE.md` and `src/net/TestHTTPServerOAuth2.rs`.",
        'ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"',
        'BASE58 = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"',
        "LLAMA_TOKENIZER := llama-models==0.3.0",
        'digest = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="',
        "commit 0123456789abcdef0123456789abcdef01234567",
        "password: ${DB_PASSWORD}",
    ],
)
def test_names_alphabets_and_digests_are_not_masked(line: str) -> None:
    assert Redactor(secrets=True, emails=False).redact([line], ["notes.yml"]) == {}


def test_the_host_after_a_password_is_kept() -> None:
    line = "url = 'http://user:" + "hunter2@db.corp.dev/x'"
    redacted = Redactor(secrets=True, emails=True).redact([line], ["a.py"])[0]
    text = redacted.text if isinstance(redacted.text, str) else redacted.text.decode()
    assert text == "url = 'http://user:[REDACTED:url-password]@db.corp.dev/x'"
    assert [finding.kind for finding in redacted.findings] == ["url-password"]
