"""Takes the screenshots of the documentation: ``make screenshots``, after ``make demo``."""

import contextlib
import fcntl
import functools
import http.server
import io
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError
from rich.console import Console
from rich.text import Text

from the_block_llm.viz.site import build_graph_site

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs/images"
REPORTS = ROOT / "data/08_reporting"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ASK_PORT = 8097
COLUMNS = 110
PANEL_TIMEOUT_MS = 10_000  # for a panel to open after a click
ANIMATION_MS = 1500  # the layout of the graph is animated
# Plots that the run has drawn, copied from its reports.
PLOTS = (
    "ingest_history", "ingest_left_out", "sequence_mix", "sequence_rows",
    "training_loss", "training_memory",
)  # fmt: skip
QUESTION = "Where are secrets masked?"
# Pipelines to show, with width and height of the window; the default pipeline needs a wide one.
GRAPHS = (("__default__", 2400, 520), ("sequence_build", 1400, 420), ("qlora_train", 1400, 420))
# Settings of Kedro-Viz that hide everything except the graph.
GRAPH_ONLY = """localStorage.KedroViz = JSON.stringify({
    orientation: "horizontal", showFeatureHints: false, theme: "light",
    visible: {sidebar: false, miniMap: false, graph: true},
})"""


def main() -> None:
    """Take every screenshot."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        sys.exit("Error: Chromium is not installed. Run: apt-get install chromium")
    if not (REPORTS / "behavioral_report.html").is_file():
        sys.exit("Error: there are no reports yet. Run `make demo` first.")
    for name in PLOTS:
        shutil.copy(REPORTS / f"{name}.png", IMAGES / f"{name}.png")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        _report(browser)
        _graph(browser)
        _ask_page(browser)
        _progress(browser)
        browser.close()
    print("The screenshots are in docs/images. Check each before you commit it.")


def open_graph(page: Page, address: str) -> None:
    """Open Kedro-Viz and wait until the graph is drawn."""
    page.goto(address)
    page.locator(".pipeline-node").first.wait_for()
    # Pending requests redraw the list, which loses clicks.
    page.wait_for_load_state("networkidle")


def open_dataset(page: Page, name: str) -> None:
    """Click a dataset in the list, retry once, and wait for its panel."""
    button = page.locator(f'.node-list-row button[title="{name}"]').first
    heading = page.locator(".pipeline-metadata").get_by_role("heading", name=name)
    button.click()
    try:
        heading.wait_for(timeout=PANEL_TIMEOUT_MS)
    except PlaywrightTimeoutError:
        button.click()
        heading.wait_for()


@contextlib.contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve ``folder`` on a free port of this machine and yield its URL."""

    class QuietHandler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


def _report(browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.goto((REPORTS / "behavioral_report.html").as_uri())
    page.screenshot(path=IMAGES / "report.png")
    page.close()


def _graph(browser: Browser) -> None:
    with serve_folder(build_graph_site(ROOT)) as address:
        for name, width, height in GRAPHS:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.add_init_script(GRAPH_ONLY)
            open_graph(page, f"{address}?pid={name}")
            page.wait_for_timeout(ANIMATION_MS)
            page.screenshot(path=IMAGES / f"viz_{name.strip('_')}.png")
            page.close()
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        open_graph(page, address)
        for name, picture in (("file_changes", "viz_table"), ("training_plot", "viz_plot")):
            open_dataset(page, name)
            page.wait_for_timeout(ANIMATION_MS)
            page.screenshot(path=IMAGES / f"{picture}.png")
        page.close()


def _ask_page(browser: Browser) -> None:
    address = f"http://127.0.0.1:{ASK_PORT}"
    server = subprocess.Popen(
        [sys.executable, "-m", "kedro", "serve", "--port", str(ASK_PORT)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_for(f"{address}/health")
        page = browser.new_page(viewport={"width": 1000, "height": 800})
        page.goto(address)
        page.get_by_label("Question").fill(QUESTION)
        page.get_by_role("button", name="Ask", exact=True).click()
        page.locator("article.assistant").get_by_text("Passages:").wait_for(timeout=600_000)
        page.screenshot(path=IMAGES / "ask_page.png")
        page.close()
    finally:
        server.terminate()
        server.wait()


def _progress(browser: Browser) -> None:
    """Capture a terminal during training; the run is then stopped and its files are removed."""
    with tempfile.TemporaryDirectory() as folder:
        terminal, child_terminal = pty.openpty()
        fcntl.ioctl(child_terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, COLUMNS, 0, 0))
        command = ["run", "--pipeline=qlora_train", f"--params=qlora_train.work_folder={folder}"]
        training = subprocess.Popen(
            [sys.executable, "-m", "kedro", *command],
            cwd=ROOT, stdin=child_terminal, stdout=child_terminal, stderr=child_terminal,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)},
        )  # fmt: skip
        os.close(child_terminal)
        output = ""
        # The loss is shown next to the progress bar after the first step.
        while re.search(r"\bloss \d", output) is None:
            output += os.read(terminal, 65_536).decode(errors="replace")
        training.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # raised when the process exits
            while os.read(terminal, 65_536):
                pass
        training.wait()
    # Keep only the last state of lines that were overwritten.
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in output.split("\n")]
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi("\n".join(["$ kedro " + command[0] + " " + command[1], *lines])))
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.set_content(console.export_svg(title="kedro"))
    page.locator("svg").first.screenshot(path=IMAGES / "progress.png")
    page.close()


def _wait_for(address: str, timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(address):
            return
        time.sleep(1)
    sys.exit(f"Error: {address} did not answer within {timeout_s:.0f} s.")


if __name__ == "__main__":
    main()
