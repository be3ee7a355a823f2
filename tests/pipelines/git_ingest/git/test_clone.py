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

from the_block_llm.errors import RepositoryError
from the_block_llm.pipelines.git_ingest.git.clone import update_mirror
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
            RepositoryError, match=r"Cannot clone \S+/none.git: fatal: repository '"
        ):
            ingest(f"{address}/none.git", tmp_path / "none")
        left = [path for path in (tmp_path / "none" / "clones").iterdir() if path.is_dir()]
    assert not left
    with pytest.raises(RepositoryError, match=r"Cannot fetch \S+/project.git: fatal: unable to"):
        ingest(f"{address}/project.git", tmp_path / "out")


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
