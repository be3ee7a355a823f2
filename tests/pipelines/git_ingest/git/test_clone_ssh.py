"""Cloning over ssh: the command that git runs, and a real server if sshd is installed."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import ingest

from the_block_llm.errors import RepositoryError

_SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _build_bare_repository(folder: Path) -> GitRepository:
    repository = GitRepository(folder / "project.git", bare=True)
    repository.commit("One", {"a.py": "x = 1\n"})
    return repository


@pytest.mark.parametrize(
    ("url_format", "ssh_arguments"),
    [
        ("ssh://user@host.invalid:2222{path}", "-p 2222 user@host.invalid"),
        ("user@host.invalid:{path}", "user@host.invalid"),
    ],
)
def test_git_runs_ssh_with_the_address_and_ignores_the_repositorys_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url_format: str, ssh_arguments: str
) -> None:
    repository = _build_bare_repository(tmp_path / "served")
    canary = tmp_path / "canary"
    repository.git("config", "core.sshCommand", f"touch {canary};")
    # A fake ssh: logs its arguments and runs the last one, as the server would.
    call_log = tmp_path / "call_log"
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {call_log}\nfor word in "$@"; do :; done\nexec sh -c "$word"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GIT_SSH_COMMAND", raising=False)
    for subject in ("One", "Two"):
        if subject == "Two":
            repository.commit(subject, {"a.py": "x = 2\n"})
        result = ingest(url_format.format(path=repository.path), tmp_path / "out")
    assert result.rows("commits", "subject", "repo") == [("One", "project"), ("Two", "project")]
    lines = call_log.read_text().splitlines()
    assert len(lines) == 2
    assert all(f"{ssh_arguments} git-upload-pack '{repository.path}'" in line for line in lines)
    assert not canary.exists()


@contextmanager
def _run_sshd(folder: Path) -> Iterator[tuple[str, Path]]:
    """Start sshd on the loopback interface; yield its address and an ssh configuration."""
    if _SSHD is None or shutil.which("ssh") is None:
        pytest.skip("needs OpenSSH's sshd and ssh (Debian: openssh-server, openssh-client)")
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile none\n"
        f"AuthorizedKeysFile {folder / 'user.pub'}\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    )
    config = folder / "ssh_config"
    config.write_text(
        f"IdentityFile {folder / 'user'}\nIdentitiesOnly yes\nBatchMode yes\n"
        f"UserKnownHostsFile {folder / 'known_hosts'}\n"
    )
    key_type, key = (folder / "host.pub").read_text().split()[:2]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key_type} {key}\n")
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # required by Debian's sshd, created by its service
            Path("/run/sshd").mkdir(exist_ok=True)
    log = folder / "sshd.log"
    server = subprocess.Popen([_SSHD, "-D", "-E", log, "-f", folder / "sshd_config"])
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if server.poll() is not None:
                pytest.skip(f"sshd does not start: {log.read_text().strip()}")
            time.sleep(0.1)
        yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}", config
    finally:
        server.terminate()
        server.wait()


def test_a_repository_behind_an_ssh_server_is_cloned_then_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = _build_bare_repository(tmp_path / "served")
    (tmp_path / "keys").mkdir(mode=0o700)
    with _run_sshd(tmp_path / "keys") as (address, config):
        # Cloning uses the user's own configuration.
        home = tmp_path / "home"
        home.mkdir()
        (home / ".gitconfig").write_text(f"[core]\n\tsshCommand = ssh -F {config}\n")
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.delenv("GIT_SSH_COMMAND", raising=False)
        for subject in ("One", "Two"):
            if subject == "Two":
                repository.commit(subject, {"a.py": "x = 2\n"})
            result = ingest(f"{address}{repository.path}", tmp_path / "out")
        assert result.rows("commits", "subject") == [("One",), ("Two",)]
        assert result.rows("snapshot_files", "text") == [("x = 2\n",)]
        with pytest.raises(RepositoryError, match=r"Cannot clone ssh://\S+/none.git: there is no"):
            ingest(f"{address}{tmp_path}/none.git", tmp_path / "none")
