"""Credentials in a URL reach the server, and no file, message or command line."""

import base64
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders.toy_ledger import build_toy_ledger
from tests.pipelines.git_ingest.git.test_clone import _SmartHttpHandler
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.errors import RepositoryError
from the_block_llm.pipelines.git_ingest.git.repository import locate
from the_block_llm.pipelines.git_ingest.git.url_credentials import (
    credential_settings,
    without_credentials,
)

USER, PASSWORD = "ann", "glpat-s3cr3t/@:%?"  # split for scanners
USER_INFO = f"{USER}:{quote(PASSWORD, safe='')}@"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SECRETS = (PASSWORD, quote(PASSWORD, safe=""), BASIC)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The host of a server that requires the user and the password."""
    build_toy_ledger(tmp_path / "web/project")

    class Handler(_SmartHttpHandler):
        def _respond(self) -> None:
            if self.headers.get("Authorization") == f"Basic {BASIC}":
                super()._respond()
                return
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic realm=git")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    def handler(*arguments: object) -> BaseHTTPRequestHandler:
        return Handler(*arguments, directory=str(tmp_path / "web"))

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:  # type: ignore[arg-type]
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{web.server_address[1]}"
        web.shutdown()


def assert_no_secret_below(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        for secret in SECRETS:
            assert secret.encode() not in content, path
            assert secret not in str(path)


def test_credentials_clone_and_fetch_and_are_in_no_file(
    tmp_path: Path, server: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TRACE", str(tmp_path / "trace"))  # ignored, as all GIT_ variables
    url = f"http://{USER_INFO}{server}/project"
    for _ in range(2):  # cloned, then fetched
        tables = ingest(url, tmp_path / "out")
        assert tables.repository["source"] == f"http://{server}/project"
        assert json.dumps(tables.repository).count(USER_INFO) == 0
    assert_no_secret_below(tmp_path / "out")
    assert not any(secret in caplog.text for secret in SECRETS)


def test_credentials_are_on_no_command_line(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []
    popen = subprocess.Popen.__init__

    def record(self: object, args: object, *more: object, **options: object) -> None:
        commands.append(repr(args))
        popen(self, args, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(subprocess.Popen, "__init__", record)
    for _ in range(2):
        locate(f"http://{USER_INFO}{server}/project", tmp_path / "clones")
    assert any("clone" in command for command in commands)
    assert not any(secret in command for command in commands for secret in SECRETS)


@pytest.mark.parametrize("user_info", [f"{USER}:wrong@", f"{USER}@", ":@", "token-only@", ""])
def test_an_error_shows_no_credentials(tmp_path: Path, server: str, user_info: str) -> None:
    with pytest.raises(RepositoryError) as caught:
        locate(f"http://{user_info}{server}/project", tmp_path / "clones")
    assert f"http://{server}/project" in str(caught.value)
    assert "wrong" not in str(caught.value)
    assert "token-only" not in str(caught.value).replace("'http://token-only", "")


@given(TEXT, TEXT, st.sampled_from(["https", "http", "HTTPS", "ssh", "ftp", "git+https"]))
def test_no_url_keeps_its_password(user: str, password: str, scheme: str) -> None:
    user_info = f"{quote(user, safe='')}:{quote('pw' + password, safe='')}@"
    url = f"{scheme}://{user_info}host.example/a/b.git?x=1"
    clean = f"{scheme}://host.example/a/b.git?x=1"
    assert without_credentials(url) == clean
    assert (
        without_credentials(f"fatal: cannot read '{url}' now")
        == f"fatal: cannot read '{clean}' now"
    )
    if scheme.lower() in {"http", "https"}:
        settings = credential_settings(url)
        header = settings["GIT_CONFIG_VALUE_0"].removeprefix("Authorization: Basic ")
        assert base64.b64decode(header).decode() == f"{user}:pw{password}"
        assert settings["GIT_CONFIG_KEY_0"] == f"http.{scheme.lower()}://host.example/.extraHeader"


@pytest.mark.parametrize(
    "url",
    ["https://host.example/a.git", "ssh://git@host.example/a.git", "git@host.example:a/b.git",
     "/home/ann/a@b", "file:///home/a@b/c", "https://host.example/a@b/c.git"],
)  # fmt: skip
def test_what_is_no_password_stays(url: str) -> None:
    assert without_credentials(url) == url
    assert credential_settings(url) == {}
