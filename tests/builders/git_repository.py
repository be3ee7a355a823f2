"""Builds git repositories for tests, commit by commit."""

import hashlib
import os
import subprocess
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FIRST_COMMIT_AT = 1_700_000_000


@dataclass(frozen=True)
class Symlink:
    target: str


@dataclass(frozen=True)
class Submodule:
    commit: str


@dataclass(frozen=True)
class Executable:
    content: bytes


Content = bytes | str | Symlink | Submodule | Executable | None


class GitRepository:
    """A repository in a temporary folder. By default commits are one minute apart."""

    def __init__(self, path: Path, *, bare: bool = False, object_format: str = "sha1") -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        options = ["--bare"] if bare else []
        self._run("init", "-q", f"--object-format={object_format}", *options, ".")
        self.git_dir = path if bare else path / ".git"
        self._run("symbolic-ref", "HEAD", "refs/heads/main")
        self._clock = FIRST_COMMIT_AT
        self._written: dict[str, str] = {}

    def commit(
        self,
        message: str | bytes,
        files: Mapping[str | bytes, Content] | None = None,
        *,
        author: tuple[str | bytes, str | bytes] = ("Ann Author", "ann@example.org"),
        at: int | None = None,
        offset: str = "+0000",
        branch: str = "main",
        parents: Sequence[str] | None = None,
        encoding: str | None = None,
        renames: Mapping[str, str] | None = None,
        delete_all: bool = False,
    ) -> str:
        """Commit ``files`` on ``branch`` and return the sha.

        Args:
            message: Subject and body.
            files: New content by path; None deletes the file.
            author: Name and e-mail address.
            at: Author and commit time in seconds since 1970; by default one minute after the last
                commit.
            offset: Offset from UTC.
            branch: Branch that is moved to the new commit.
            parents: Parents, by default the tip of ``branch``; an empty list creates a root commit.
            encoding: Declared encoding of the message.
            renames: New path by old path.
            delete_all: Start with an empty tree.
        """
        if at is None:
            self._clock += 60
            at = self._clock
        else:
            self._clock = max(self._clock, at)
        if parents is None:
            tip = self._run("rev-parse", "--verify", "-q", f"refs/heads/{branch}", check=False)
            parents = [tip] if tip else []
        name, email = (_bytes(part) for part in author)
        person = b"%s <%s> %d %s" % (name, email, at, offset.encode())
        body = _bytes(message)
        lines = [
            b"reset refs/heads/%s" % branch.encode(),
            b"commit refs/heads/%s" % branch.encode(),
        ]
        lines += [b"mark :1", b"author " + person, b"committer " + person]
        lines += [b"encoding " + encoding.encode()] if encoding else []
        lines += [b"data %d" % len(body), body]
        lines += [b"from " + sha.encode() for sha in parents[:1]]
        lines += [b"merge " + sha.encode() for sha in parents[1:]]
        lines += [b"deleteall"] if delete_all else []
        for old, new in (renames or {}).items():
            lines.append(b"R %s %s" % (_quoted(old), _quoted(new)))
        for path, content in (files or {}).items():
            lines += _change(path, content)
        lines += [b"get-mark :1", b"done", b""]
        output = self._run("fast-import", "--quiet", "--done", "--force", stdin=b"\n".join(lines))
        return output.split()[0]

    def commit_many(self, commits: Sequence[tuple[str, Mapping[str, Content]]]) -> None:
        """Commit message and files of each entry on ``main``, with one git process for all."""
        lines: list[bytes] = [b"feature done"]
        for message, files in commits:
            self._clock += 60
            lines += [b"commit refs/heads/main"]
            lines += [b"committer Ann Author <ann@example.org> %d +0000" % self._clock]
            lines += [b"data %d" % len(_bytes(message)), _bytes(message)]
            for path, content in files.items():
                lines += _change(path, content)
        self._run("fast-import", "--quiet", "--force", stdin=b"\n".join([*lines, b"done", b""]))

    def git(self, *arguments: str) -> str:
        """Run any git command in the repository and return what it prints."""
        return self._run(*arguments)

    def write_object(self, kind: str, content: bytes) -> str:
        """Write one object with the given content and return its sha."""
        return self._run("hash-object", "-t", kind, "-w", "--stdin", stdin=content)

    def write_commit(
        self,
        message: str | bytes,
        author: bytes | None,
        committer: bytes | None,
        files: Mapping[str, str] | None = None,
    ) -> str:
        """Add a commit to ``main`` with lines that git itself might not write; runs no git.

        Args:
            message: Subject and body.
            author: What follows ``author``, such as ``Ann <a@b> 1 +0000``; None for no such line.
            committer: Likewise.
            files: Text by path, without folders, added to the files of the last such commit.
        """
        for name, text in (files or {}).items():
            self._written[name] = self._write_loose("blob", text.encode())
        tree = self._write_loose(
            "tree",
            b"".join(
                b"100644 %s\0%s" % (name.encode(), bytes.fromhex(blob))
                for name, blob in sorted(self._written.items())
            ),
        )
        branch = self.git_dir / "refs" / "heads" / "main"
        lines = [b"tree " + tree.encode()]
        lines += [b"parent " + branch.read_bytes().strip()] if branch.exists() else []
        lines += [b"author " + author] if author is not None else []
        lines += [b"committer " + committer] if committer is not None else []
        sha = self._write_loose("commit", b"\n".join([*lines, b"", _bytes(message)]))
        branch.write_text(f"{sha}\n")
        return sha

    def _write_loose(self, kind: str, content: bytes) -> str:
        stored = b"%s %d\0%s" % (kind.encode(), len(content), content)
        sha = hashlib.sha1(stored).hexdigest()
        path = self.git_dir / "objects" / sha[:2] / sha[2:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(zlib.compress(stored, 1))
        return sha

    def write_tree(self, entries: Mapping[str, tuple[str, str]]) -> str:
        """Write a tree of mode and sha by name; entries may share one subtree."""
        ordered = sorted(entries.items(), key=lambda e: e[0] + ("/" if e[1][0] == "40000" else ""))
        content = b"".join(
            b"%s %s\0%s" % (mode.encode(), _bytes(name), bytes.fromhex(sha))
            for name, (mode, sha) in ordered
        )
        return self.write_object("tree", content)

    def checkout(self) -> None:
        self._run("reset", "-q", "--hard")

    def remove_object(self, sha: str) -> None:
        """Make one object unreadable, as in a damaged or partial clone."""
        packs = list((self.git_dir / "objects" / "pack").glob("*.pack"))
        contents = [pack.read_bytes() for pack in packs]
        for pack in packs:
            pack.unlink()
            pack.with_suffix(".idx").unlink()
        for content in contents:
            self._run("unpack-objects", "-q", stdin=content)
        (self.git_dir / "objects" / sha[:2] / sha[2:]).unlink()

    def _run(self, *arguments: str, stdin: bytes = b"", check: bool = True) -> str:
        completed = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_CONFIG_GLOBAL": os.devnull,
                "GIT_AUTHOR_NAME": "Ann Author",
                "GIT_AUTHOR_EMAIL": "ann@example.org",
                "GIT_COMMITTER_NAME": "Ann Author",
                "GIT_COMMITTER_EMAIL": "ann@example.org",
            },
            input=stdin,
            capture_output=True,
            check=False,
        )
        if check and completed.returncode != 0:
            raise RuntimeError(f"git {arguments}: {completed.stderr.decode('utf-8', 'replace')}")
        return completed.stdout.decode("utf-8", "surrogateescape").strip()


def _change(path: str | bytes, content: Content) -> list[bytes]:
    name = _quoted(path)
    if content is None:
        return [b"D " + name]
    if isinstance(content, Submodule):
        return [b"M 160000 %s %s" % (content.commit.encode(), name)]
    if isinstance(content, Symlink):
        mode, data = b"120000", content.target.encode()
    elif isinstance(content, Executable):
        mode, data = b"100755", content.content
    else:
        mode, data = b"100644", _bytes(content)
    return [b"M %s inline %s" % (mode, name), b"data %d" % len(data), data]


def _quoted(path: str | bytes) -> bytes:
    escaped = b"".join(
        bytes([byte]) if 32 <= byte < 127 and byte not in b'"\\' else b"\\%03o" % byte
        for byte in _bytes(path)
    )
    return b'"' + escaped + b'"'


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
