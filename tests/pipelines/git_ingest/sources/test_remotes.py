"""A repository behind a web server is cloned once and fetched afterwards."""

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
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.errors import RepositoryError


class _Smart(BaseHTTPRequestHandler):
    """Hands each request to ``git http-backend``, as a web server does."""

    def __init__(self, *arguments: object, directory: str) -> None:
        self._folder = directory
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        said = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = {
            "GIT_PROJECT_ROOT": self._folder,
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        answer = subprocess.run(
            ["git", "http-backend"],
            input=said,
            env=os.environ | asked | {"CONTENT_LENGTH": str(len(said))},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        ).stdout
        head, _, body = answer.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Dumb(SimpleHTTPRequestHandler):
    """Only gives out files."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _served(folder: Path, kind: type[_Smart | _Dumb]) -> Iterator[str]:
    handler = functools.partial(kind, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("kind", [_Smart, _Dumb])
def test_a_repository_behind_a_web_server(tmp_path: Path, kind: type[_Smart | _Dumb]) -> None:
    served = tmp_path / "served"
    repository = GitRepository(served / "project.git", bare=True)
    clones = []
    with _served(served, kind) as address:
        for number, subject in enumerate(("One", "Two"), 1):
            repository.commit(subject, {"a.py": f"x = {number}\n"})
            repository.git("update-server-info")
            got = ingest(f"{address}/project.git", tmp_path / "out")
            clones.append([c.stat().st_ino for c in (tmp_path / "out" / "clones").iterdir()])
        assert got.rows("commits", "subject", "repo") == [("One", "project"), ("Two", "project")]
        assert got.rows("snapshot_files", "text") == [("x = 2\n",)]
        assert clones[0] == clones[1]  # fetched into, not cloned again

        with pytest.raises(
            RepositoryError, match=r"Cannot clone \S+/none.git: fatal: repository '"
        ):
            ingest(f"{address}/none.git", tmp_path / "none")
        assert not list((tmp_path / "none" / "clones").iterdir())
    with pytest.raises(RepositoryError, match=r"Cannot fetch \S+/project.git: fatal: unable to"):
        ingest(f"{address}/project.git", tmp_path / "out")
