"""The pipeline graph as a static Kedro-Viz site: ``make viz``.

Kedro-Viz builds the site; its files are then corrected:

- the font from another host is removed,
- the metadata file that the page requests but the build omits is added,
- the initial orientation of the graph is set to horizontal,
- absolute paths of the project are made relative, and credentials are removed from URLs,
- layers are ordered as the folders under ``data``; single pipelines have them in alphabetical order
  unless the pipeline determines it.
"""

import argparse
import functools
import http.server
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from kedro_viz.api.rest.utils import get_package_compatibilities

from the_block_llm.datasets.parquet_table import write_text_atomically
from the_block_llm.errors import BlockError, GraphSiteError
from the_block_llm.locks.process_lock import ProcessLock
from the_block_llm.os_errors import cause_of

# In the order of the numbered folders under data/.
_LAYERS: Final = (
    "raw", "intermediate", "primary", "feature", "model_input", "models", "model_output",
    "reporting",
)  # fmt: skip
# Of a URL in a parameter: the site is given to others.
_USER_INFO: Final = re.compile(r"(?<=://)[^/?#\s\"'@]+@")
_EXTERNAL_LINK: Final = re.compile(r'\s*<link\s[^>]*href="https?://[^>]*>')
# Only if this browser has no stored settings yet.
_INITIAL_VIEW: Final = (
    "<script>localStorage.KedroViz ??= JSON.stringify("
    '{orientation: "horizontal", showFeatureHints: false});</script>'
)


def build_graph_site(project: Path) -> Path:
    """Build the site with previews of all existing datasets.

    Args:
        project: Folder of the project; the site is written to its subfolder ``build``.

    Returns:
        The folder to serve over HTTP; the page does not work from a ``file://`` URL.

    Raises:
        GraphSiteError: Kedro-Viz failed.
    """
    with ProcessLock(project / ".viz/site.lock", f"The site in {project / 'build'}"):
        return _build(project)


def _build(project: Path) -> Path:
    completed = subprocess.run(
        [sys.executable, "-m", "kedro", "viz", "build", "--include-previews"],
        cwd=project, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    site = project / "build"
    # Kedro-Viz prints some errors but still exits with 0.
    if completed.returncode or not (site / "api/main").is_file():
        raise GraphSiteError(
            f"Kedro-Viz could not build the graph. Its output:\n{completed.stdout[-2000:]}"
        )
    for page in site.glob("*.html"):
        text = _EXTERNAL_LINK.sub("", page.read_text(encoding="utf-8"))
        write_text_atomically(page, text.replace("</title>", f"</title>{_INITIAL_VIEW}", 1))
    for response in (path for path in (site / "api").rglob("*") if path.is_file()):
        text = response.read_text(encoding="utf-8")
        write_text_atomically(response, _USER_INFO.sub("", _relative_paths(text, project)))
    for graph in (site / "api/main", *(site / "api/pipelines").iterdir()):
        content = json.loads(graph.read_text(encoding="utf-8"))
        content["layers"].sort(key=_LAYERS.index)
        write_text_atomically(graph, json.dumps(content))
    compatible = [package.model_dump() for package in get_package_compatibilities()]
    metadata = {"has_missing_dependencies": False, "package_compatibilities": compatible}
    write_text_atomically(site / "api/metadata", json.dumps(metadata))
    return site


def _relative_paths(text: str, project: Path) -> str:
    """Make paths inside the project relative; Kedro-Viz also omits their leading slash."""
    path = project.resolve().as_posix()
    return text.replace(f"{path}/", "").replace(f"{path.lstrip('/')}/", "")


def main() -> None:
    """Build the site and serve it until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Build the graph and serve it until Ctrl-C.")
    parser.add_argument("--port", type=int, default=4141)
    parser.add_argument("--only-build", action="store_true", help="do not serve")
    options = parser.parse_args()
    try:
        site = build_graph_site(Path.cwd())
        if not options.only_build:
            _serve(site, options.port)
    except BlockError as error:
        sys.exit(f"Error: {error}")


def _serve(site: Path, port: int) -> None:
    handler = functools.partial(_QuietHandler, directory=str(site))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise GraphSiteError(
            f"Port {port} cannot be used: {cause_of(error)}. Choose another: make viz PORT=4142"
        ) from error
    with server:
        print(f"The graph is at http://127.0.0.1:{port}/ until Ctrl-C.")  # noqa: T201
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()  # noqa: T201


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


if __name__ == "__main__":
    main()
