"""URLs and bundles are cloned once and fetched afterwards."""

import functools
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.builders.git_repository import GitRepository
from tests.builders.processes import Script, running
from tests.builders.toy_ledger import build_toy_ledger
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.errors import RepositoryError, StorageError
from the_block_llm.pipelines.git_ingest.git.clone import clone_error, update_mirror
from the_block_llm.pipelines.git_ingest.git.repository import locate


def test_an_unreachable_url_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="Cannot clone"):
        ingest("file:///nowhere/at/all.git", tmp_path / "out")


def test_a_url_is_cloned_once_and_then_fetched(tmp_path: Path) -> None:
    origin = build_toy_ledger(tmp_path / "origin")
    first = locate(f"file://{origin}", tmp_path / "clones")
    assert (first.git_dir / "HEAD").is_file()
    assert not list(first.git_dir.glob("hooks/*"))
    subprocess.run(["git", "branch", "later"], cwd=origin, check=True)
    assert locate(f"file://{origin}", tmp_path / "clones") == first
    refs = subprocess.run(
        ["git", "for-each-ref"], cwd=first.git_dir, check=True, capture_output=True, text=True
    )
    assert "refs/heads/later" in refs.stdout


def test_a_bundle_is_cloned(tmp_path: Path) -> None:
    origin = build_toy_ledger(tmp_path / "origin")
    subprocess.run(
        ["git", "bundle", "create", "--quiet", str(tmp_path / "project.bundle"), "--all"],
        cwd=origin,
        check=True,
    )
    location = locate(str(tmp_path / "project.bundle"), tmp_path / "clones")
    assert location.name == "project"
    assert (location.git_dir / "HEAD").is_file()


class _SmartHttpHandler(BaseHTTPRequestHandler):
    """Passes each request to ``git http-backend``, as a web server does (smart HTTP)."""

    def __init__(self, *arguments: object, directory: str) -> None:
        self._folder = directory
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def _respond(self) -> None:
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        variables = {
            "GIT_PROJECT_ROOT": self._folder,
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        response = subprocess.run(
            ["git", "http-backend"],
            input=body,
            env=os.environ | variables | {"CONTENT_LENGTH": str(len(body))},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        ).stdout
        head, _, content = response.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class _DumbHttpHandler(SimpleHTTPRequestHandler):
    """Serves files only (dumb HTTP)."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _serve(folder: Path, handler: type[_SmartHttpHandler | _DumbHttpHandler]) -> Iterator[str]:
    handler = functools.partial(handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("handler", [_SmartHttpHandler, _DumbHttpHandler])
def test_a_repository_behind_a_web_server_is_cloned_then_fetched(
    tmp_path: Path, handler: type[_SmartHttpHandler | _DumbHttpHandler]
) -> None:
    served = tmp_path / "served"
    repository = GitRepository(served / "project.git", bare=True)
    clones = []
    with _serve(served, handler) as address:
        for number, subject in enumerate(("One", "Two"), 1):
            repository.commit(subject, {"a.py": f"x = {number}\n"})
            repository.git("update-server-info")
            result = ingest(f"{address}/project.git", tmp_path / "out")
            clones.append([c.stat().st_ino for c in (tmp_path / "out" / "clones").iterdir()])
        assert result.rows("commits", "subject", "repo") == [("One", "project"), ("Two", "project")]
        assert result.rows("snapshot_files", "text") == [("x = 2\n",)]
        assert clones[0] == clones[1]  # fetched, not cloned again

        with pytest.raises(
            RepositoryError, match=r"Cannot clone \S+/none.git: there is no repository at that"
        ):
            ingest(f"{address}/none.git", tmp_path / "none")
        left = [path for path in (tmp_path / "none" / "clones").iterdir() if path.is_dir()]
        assert not left
    with pytest.raises(RepositoryError, match=r"Cannot fetch \S+/project.git: the server cannot"):
        ingest(f"{address}/project.git", tmp_path / "out")


class _StatusHandler(BaseHTTPRequestHandler):
    """Answers with the status that the address begins with, as in ``/404/project.git``."""

    def __init__(self, *arguments: object, directory: str) -> None:
        del directory
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        status = int(self.path.split("/")[1])
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", "Basic")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "asks for authentication or refuses it"),
        (403, "asks for authentication or refuses it"),
        (404, "there is no repository at that address"),
        (407, "the proxy cannot be used"),
        (429, "limits the number of requests"),
        (500, "the server has an error of its own"),
        (503, "the server has an error of its own"),
    ],
)
def test_what_a_web_server_answers_is_named(tmp_path: Path, status: int, message: str) -> None:
    with _serve(tmp_path, _StatusHandler) as address:
        url = f"{address}/{status}/project.git".replace("://", "://ann:secret@")
        with pytest.raises(RepositoryError, match=f"Cannot clone .*{message}") as caught:
            ingest(url, tmp_path / "out")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://no-such-host.invalid/x.git", "the host is unknown"),
        ("git://no-such-host.invalid/x.git", "the host is unknown"),
        ("http://127.0.0.1:9/x.git", "the server cannot be reached"),
        ("git://127.0.0.1:9/x.git", "the server cannot be reached"),
        ("file:///nowhere/at/all.git", "there is no repository at that address"),
    ],
)
def test_an_address_that_leads_nowhere_is_named(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(RepositoryError, match=f"Cannot clone .*{message}"):
        ingest(url, tmp_path / "out")


# What git, curl and ssh print, where it takes more than a server on loopback to make them.
_PRINTED = {
    "fatal: could not read Username for 'https://example.org': terminal prompts disabled":
        "asks for authentication",
    "remote: HTTP Basic: Access denied\nfatal: Authentication failed for 'https://x/'":
        "asks for authentication",
    "git@example.org: Permission denied (publickey).\nfatal: Could not read from remote repository."
        "\n\nPlease make sure you have the correct access rights and the repository exists.":
        "asks for authentication",
    "Host key verification failed.\nfatal: Could not read from remote repository.":
        "host's key is not known",
    "ssh: connect to host example.org port 22: Connection timed out\nfatal: Could not read":
        "does not answer in time",
    "ssh: Could not resolve hostname example.invalid: Name or service not known": "host is unknown",
    "ssh: connect to host example.org port 22: Network is unreachable": "cannot be reached",
    "fatal: unable to access 'https://x/': SSL certificate problem: certificate has expired":
        "certificate",
    "fatal: unable to access 'https://x/': server certificate verification failed. CAfile: none":
        "certificate",
    "fatal: unable to access 'https://x/': Failed to connect to x port 443: Connection timed out":
        "cannot be reached",
    "error: RPC failed; curl 28 Operation too slow. Less than 1 bytes/sec transferred the last 600":
        "does not answer in time",
    "fatal: transport 'ftp' not allowed": "cannot use the protocol",
    "git: 'remote-https' is not a git command. See 'git --help'.": "cannot use the protocol",
    "error: cannot run ssh: No such file or directory\nfatal: unable to fork":
        "cannot use the protocol",
    "remote: Repository not found.\nfatal: repository 'https://example.org/x/' not found":
        "there is no repository",
    "ERROR: Repository not found.\nfatal: Could not read from remote repository.":
        "there is no repository",
    "fatal: remote error: access denied or repository not exported: /x": "there is no repository",
    "fatal: '/x' does not appear to be a git repository": "there is no repository",
    "fatal: detected dubious ownership in repository at '/x'\nfatal: Could not read from remote":
        "belongs to another user",
    "error: RPC failed; curl 18 transfer closed with outstanding read data\nfatal: early EOF":
        "the transfer was interrupted",
    "fatal: the remote end hung up unexpectedly": "the transfer was interrupted",
    "fatal: mismatched algorithms: client sha1; server sha256": "another object format",
    "error: Repository lacks these prerequisite commits:\nerror: 1234": "the bundle is damaged",
    "fatal: something that nobody has seen": "something that nobody has seen. Check the address",
    "": "nothing. Check the address",
}  # fmt: skip


@pytest.mark.parametrize("output", _PRINTED)
def test_what_git_prints_is_named(tmp_path: Path, output: str) -> None:
    error = clone_error("https://example.org/x.git", output, tmp_path / "x.git")
    assert isinstance(error, RepositoryError)
    assert _PRINTED[output] in str(error)


_UNSTORED = {
    "fatal: write error: No space left on device\nfatal: fetch-pack: invalid index-pack output":
        "no space is left on the disk",
    "error: unable to write file x: Disk quota exceeded\nfatal: early EOF": "quota is used up",
    "fatal: could not create work tree dir 'x': Read-only file system": "mounted read-only",
    "fatal: could not create leading directories of 'x': Permission denied": "permission is denied",
    "fatal: cannot create thread: Cannot allocate memory\nfatal: index-pack failed":
        "memory is exhausted",
    "fatal: unable to open /x/objects/pack: Too many open files": "too many files are open",
    "fatal: unable to create x: Input/output error": "input/output error",
}  # fmt: skip


@pytest.mark.parametrize("output", _UNSTORED)
def test_a_clone_that_cannot_be_stored_is_an_error_of_the_storage(
    tmp_path: Path, output: str
) -> None:
    error = clone_error("https://example.org/x.git", output, tmp_path / "x.git")
    assert isinstance(error, StorageError)
    assert _UNSTORED[output] in str(error)
    assert "git_ingest.clone_folder" in str(error)


def test_a_full_disk_of_the_server_is_not_one_here(tmp_path: Path) -> None:
    output = "remote: fatal: write error: No space left on device\nfatal: early EOF"
    error = clone_error("https://example.org/x.git", output, tmp_path / "x.git")
    assert "the transfer was interrupted" in str(error)


def test_a_damaged_stored_clone_is_named(tmp_path: Path) -> None:
    origin = build_toy_ledger(tmp_path / "origin")
    location = locate(f"file://{origin}", tmp_path / "clones")
    (location.git_dir / "HEAD").unlink()
    with pytest.raises(RepositoryError, match=r"stored clone \S+ of file://\S+ is damaged. Delete"):
        locate(f"file://{origin}", tmp_path / "clones")


def test_a_clone_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "clones").write_text("x")
    with pytest.raises(StorageError, match="exists already.*git_ingest.clone_folder"):
        locate(f"file://{build_toy_ledger(tmp_path / 'origin')}", tmp_path / "clones")


def test_credentials_of_an_address_are_not_stored(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project.git", bare=True)
    repository.commit("One", {"a.py": "x = 1\n"})
    repository.git("update-server-info")
    with _serve(tmp_path, _DumbHttpHandler) as address:
        url = f"{address}/project.git".replace("://", "://ann:pass" + "phrase@")
        result = ingest(url, tmp_path / "out")
        listed = ingest(".", tmp_path / "listed", repositories=[url, url, f"{url}x"])
    for found in (result, listed):
        assert "passphrase" not in f"{found.repository} {found.report}"


UPDATE = """
    import sys
    from pathlib import Path
    from the_block_llm.pipelines.git_ingest.git.clone import update_mirror
    for _ in range(3):
        mirror = update_mirror(sys.argv[1], "project", Path(sys.argv[2]))
        assert (mirror / "HEAD").is_file()
    print(mirror)
"""


def test_processes_that_need_the_same_clone_share_it(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    for number in range(5):
        repository.commit(f"Number {number}", {"a.py": f"x = {number}\n"})
    updates = [Script(UPDATE, f"file://{repository.path}", tmp_path / "clones") for _ in range(4)]
    with running(*updates):
        mirrors = {update.finish().splitlines()[-1] for update in updates}
    assert len(mirrors) == 1
    assert [str(path) for path in (tmp_path / "clones").iterdir() if path.is_dir()] == [*mirrors]


def test_a_clone_that_was_killed_is_begun_again(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "project")
    repository.commit("One", {"a.py": "x = 1\n"})
    url = f"file://{repository.path}"
    mirror = update_mirror(url, "project", tmp_path / "clones")
    unfinished = mirror.with_name(f".{mirror.name}.unfinished")
    mirror.rename(unfinished)
    (unfinished / "HEAD").unlink()
    assert update_mirror(url, "project", tmp_path / "clones") == mirror
    assert (mirror / "HEAD").is_file()
    assert not unfinished.exists()
