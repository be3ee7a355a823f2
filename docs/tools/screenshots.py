"""The pictures of the documentation, taken anew: ``make screenshots``, after ``make demo``."""

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
PATIENCE_MS = 10_000  # for a panel that a click opens
STILL_MS = 1500  # nodes move into place for a while
# Plots are drawn by the run itself; their names say what they show.
PLOTS = (
    "ingest_history", "ingest_left_out", "sequence_mix", "sequence_rows",
    "training_loss", "training_memory",
)  # fmt: skip
QUESTION = "Where are secrets masked?"
# Pipelines that are shown, with the size of the window; the whole needs a wide one.
GRAPHS = (("__default__", 2400, 520), ("sequence_build", 1400, 420), ("qlora_train", 1400, 420))
# The graph with nothing beside it, for a picture that is wide and low.
BARE = """localStorage.KedroViz = JSON.stringify({
    orientation: "horizontal", showFeatureHints: false, theme: "light",
    visible: {sidebar: false, miniMap: false, graph: true},
})"""


def main() -> None:
    """Take every picture."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        sys.exit("Error: there is no chromium. Install it: apt-get install chromium")
    if not (REPORTS / "behavioral_report.html").is_file():
        sys.exit("Error: there is nothing to show yet. Run `make demo` first.")
    for name in PLOTS:
        shutil.copy(REPORTS / f"{name}.png", IMAGES / f"{name}.png")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        _report(browser)
        _graph(browser)
        _ask_page(browser)
        _progress(browser)
        browser.close()
    print("The pictures are in docs/images. Look at each before you commit it.")


def settle(page: Page, address: str) -> None:
    """Open Kedro-Viz and wait until it is drawn."""
    page.goto(address)
    page.locator(".pipeline-node").first.wait_for()
    # What it still asks for redraws the list, and a click that comes meanwhile is lost.
    page.wait_for_load_state("networkidle")


def open_dataset(page: Page, name: str) -> None:
    """Click a dataset in the list, once more if need be, and wait for its panel."""
    button = page.locator(f'.node-list-row button[title="{name}"]').first
    heading = page.locator(".pipeline-metadata").get_by_role("heading", name=name)
    button.click()
    try:
        heading.wait_for(timeout=PATIENCE_MS)
    except PlaywrightTimeoutError:
        button.click()
        heading.wait_for()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve ``folder`` on a free port of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    handler = functools.partial(Quiet, directory=str(folder))
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
    with served(build_graph_site(ROOT)) as address:
        for name, width, height in GRAPHS:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.add_init_script(BARE)
            settle(page, f"{address}?pid={name}")
            page.wait_for_timeout(STILL_MS)
            page.screenshot(path=IMAGES / f"viz_{name.strip('_')}.png")
            page.close()
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        settle(page, address)
        for name, picture in (("file_changes", "viz_table"), ("training_plot", "viz_plot")):
            open_dataset(page, name)
            page.wait_for_timeout(STILL_MS)
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
    """A training under way, as a terminal shows it; it is then stopped and leaves nothing."""
    with tempfile.TemporaryDirectory() as folder:
        terminal, its_end = pty.openpty()
        fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 30, COLUMNS, 0, 0))
        command = ["run", "--pipeline=qlora_train", f"--params=qlora_train.work_folder={folder}"]
        training = subprocess.Popen(
            [sys.executable, "-m", "kedro", *command],
            cwd=ROOT, stdin=its_end, stdout=its_end, stderr=its_end,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)},
        )  # fmt: skip
        os.close(its_end)
        seen = ""
        # A loss stands beside the bar once a step is done.
        while re.search(r"\bloss \d", seen) is None:
            seen += os.read(terminal, 65_536).decode(errors="replace")
        training.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the terminal closes with the program
            while os.read(terminal, 65_536):
                pass
        training.wait()
    # Of a line that was written again and again, the last state.
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in seen.split("\n")]
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi("\n".join(["$ kedro " + command[0] + " " + command[1], *lines])))
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.set_content(console.export_svg(title="kedro"))
    page.locator("svg").first.screenshot(path=IMAGES / "progress.png")
    page.close()


def _wait_for(address: str, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(address):
            return
        time.sleep(1)
    sys.exit(f"Error: {address} did not answer within {seconds:.0f} s.")


if __name__ == "__main__":
    main()
