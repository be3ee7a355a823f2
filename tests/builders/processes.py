"""Commands in processes of their own, for tests of what several processes do at once."""

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

TIMEOUT_S = 300


class Script:
    """A running Python script; its standard output and error are one stream."""

    def __init__(
        self,
        code: str,
        *arguments: object,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
            cwd=cwd, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env={**os.environ, "COLUMNS": "400", **(env or {})},
        )  # fmt: skip
        self.output = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def wait_for(self, text: str) -> None:
        """Wait until a line with ``text`` is printed."""
        assert self._process.stdout is not None
        while text not in self.output:
            line = self._process.stdout.readline()
            assert line, f"ended without {text!r}: {self.output}"
            self.output += line

    def finish(self, line: str | None = None) -> str:
        """Send ``line``, wait for the end, and return the output; fail if the script failed."""
        rest, _ = self._process.communicate(None if line is None else f"{line}\n", TIMEOUT_S)
        self.output += rest
        assert self._process.returncode == 0, self.output[-3000:]
        return self.output

    def kill(self) -> None:
        """End it as the kernel does when memory is short."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def running(*scripts: Script) -> Iterator[None]:
    """Kill the scripts at the end."""
    try:
        yield
    finally:
        for script in scripts:
            script.kill()
