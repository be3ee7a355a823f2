"""A Hub that cannot be reached, or refuses a model: one request, and one sentence with a remedy."""

import datetime as dt
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from tests.builders.project import copy_project
from tests.builders.tiny_llama import save_tiny_llama, tiny_profile

from the_block_llm.errors import ModelUnavailableError
from the_block_llm.models.base import hub
from the_block_llm.models.base.sources import (
    base_revision,
    call_with_loading_errors,
    load_config,
    load_tokenizer,
)
from the_block_llm.models.profiles import ModelProfile

COMMIT = "a" * 40
PROFILE = tiny_profile(Path("unused")).model_copy(
    update={"folder": None, "hub_id": "someone/model", "hub_revision": "v1"}
)
REMEDY = "models.tiny.folder"


class Hub:
    """A server on loopback that answers every request with one status and one set of headers."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.requests = 0
        hub_server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub_server.requests += 1
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Allow the Hub, with an empty cache and a short limit for its answer."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.5")
    monkeypatch.setattr(hub, "_uses_cache", {})
    close_session()
    yield monkeypatch
    close_session()  # it remembers proxies and certificates


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def fill_cache(profile: ModelProfile) -> None:
    """Store the configuration of ``profile`` in the cache, as a download does."""
    model = Path(constants.HF_HUB_CACHE) / "models--someone--model"
    save_tiny_llama(model / "snapshots" / COMMIT)
    (model / "refs").mkdir()
    (model / "refs" / str(profile.hub_revision)).write_text(COMMIT)


def refused_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


def silent_listener(stack: ExitStack) -> int:
    """A port where connections are accepted by the system, and never answered."""
    listening = stack.enter_context(socket.socket())
    listening.bind(("127.0.0.1", 0))
    listening.listen(8)
    return int(listening.getsockname()[1])


def black_hole(stack: ExitStack) -> int:
    """A port whose queue of connections is full: a further one is never completed."""
    listening = stack.enter_context(socket.socket())
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    port = int(listening.getsockname()[1])
    for _ in range(4):
        waiting = stack.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(("127.0.0.1", port))
    return port


def untrusted_server(stack: ExitStack, folder: Path) -> int:
    """A server with a certificate that nobody has signed."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    file = folder / "server.pem"
    file.write_bytes(
        certificate.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = Hub(200, {})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server.server.socket = context.wrap_socket(server.server.socket, server_side=True)
    stack.callback(server.server.shutdown)
    return server.port


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("refused", "refused"),
        ("silent", r"timed out|no answer within 0\.5 s"),
        ("black hole", r"timed out|no answer within 0\.5 s"),
        ("unknown host", "(?i)name|address|resolve|no answer within"),
        ("certificate", "(?i)certificate"),
        ("no TLS", "(?i)ssl|tls"),
        ("silent proxy", r"timed out|no answer within 0\.5 s"),
        ("refused proxy", "refused"),
    ],
)
def test_an_unreachable_hub_is_an_error_at_once(
    online: pytest.MonkeyPatch, tmp_path: Path, failure: str, reason: str
) -> None:
    with ExitStack() as stack:
        url = {
            "refused": lambda: f"http://127.0.0.1:{refused_port()}",
            "silent": lambda: f"http://127.0.0.1:{silent_listener(stack)}",
            "black hole": lambda: f"http://127.0.0.1:{black_hole(stack)}",
            "unknown host": lambda: "http://no-such-host.invalid",
            "certificate": lambda: f"https://localhost:{untrusted_server(stack, tmp_path)}",
            "no TLS": lambda: f"https://127.0.0.1:{Hub(200, {}).port}",
            "silent proxy": lambda: "http://hub.example",
            "refused proxy": lambda: "http://hub.example",
        }[failure]()
        if "proxy" in failure:
            port = silent_listener(stack) if "silent" in failure else refused_port()
            online.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
            online.setenv("http_proxy", f"http://127.0.0.1:{port}")
        use_endpoint(online, url)
        if not {"silent", "black hole", "silent proxy"} & {failure}:
            online.setenv("HF_HUB_ETAG_TIMEOUT", "30")  # also on a busy machine
        with pytest.raises(ModelUnavailableError) as caught:
            hub.check_hub(PROFILE)
        message = str(caught.value)
        assert message.startswith(f"someone/model cannot be requested from {url}: ")
        assert message == message.splitlines()[0]
        for part in (REMEDY, "HF_ENDPOINT", "HTTPS_PROXY", "HF_HUB_OFFLINE=1"):
            assert part in message
        with pytest.raises(ModelUnavailableError, match=reason):
            hub.check_hub(PROFILE)


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (403, {"X-Error-Code": "GatedRepo"}, "is gated. Accept its license at http.*HF_TOKEN"),
        (401, {"X-Error-Code": "GatedRepo"}, "is gated"),
        (401, {"X-Error-Code": "RepoNotFound"}, "does not exist on the Hub, or is private"),
        (404, {"X-Error-Code": "RepoNotFound"}, "does not exist on the Hub, or is private"),
        (404, {"X-Error-Code": "RevisionNotFound"}, r"no revision v1.*models\.tiny\.hub_revision"),
        (404, {"X-Error-Code": "EntryNotFound"}, "contains no config.json"),
        (403, {}, r"refuses someone/model \(status 403\).*HF_TOKEN"),
        (404, {}, "cannot be requested from .*status 404"),
        (429, {}, "cannot be requested from .*status 429"),
        (500, {}, "cannot be requested from .*status 500"),
        (503, {"Retry-After": "3600"}, "cannot be requested from .*status 503"),
        (200, {"ETag": "x"}, "the answer is not one of the Hub"),
    ],
)
def test_an_answer_that_refuses_the_model_is_an_error_after_one_request(
    online: pytest.MonkeyPatch, status: int, headers: dict[str, str], message: str
) -> None:
    server = Hub(status, headers)
    use_endpoint(online, f"http://127.0.0.1:{server.port}")
    online.setenv("HF_HUB_ETAG_TIMEOUT", "20")
    for load in (load_config, load_tokenizer):
        server.requests = 0
        with pytest.raises(ModelUnavailableError, match=message):
            load(PROFILE)
        assert server.requests == 1
    server.server.shutdown()


@pytest.mark.parametrize("failure", ["refused", "silent", 500, 429])
def test_a_cached_model_works_without_the_hub_after_one_request(
    online: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: str | int
) -> None:
    fill_cache(PROFILE)
    if failure != "silent":
        online.setenv("HF_HUB_ETAG_TIMEOUT", "30")
    with ExitStack() as stack:
        server = Hub(failure, {}) if isinstance(failure, int) else None
        ports = {"refused": refused_port, "silent": lambda: silent_listener(stack)}
        port = server.port if server else ports[str(failure)]()
        use_endpoint(online, f"http://127.0.0.1:{port}")
        with caplog.at_level(logging.INFO, logger="the_block_llm"):
            assert load_config(PROFILE).model_type == "llama"
            assert load_tokenizer(PROFILE).pad_token == PROFILE.pad_token
            assert base_revision(PROFILE, "someone/model") == COMMIT
        assert server is None or server.requests == 1
    messages = [record.getMessage() for record in caplog.records]
    assert sum("the cached copy is used" in message for message in messages) == 1
    assert constants.HF_HUB_OFFLINE is False


def test_offline_without_a_cached_copy_is_an_error(online: pytest.MonkeyPatch) -> None:
    online.setattr(constants, "HF_HUB_OFFLINE", True)
    use_endpoint(online, f"http://127.0.0.1:{refused_port()}")
    with pytest.raises(ModelUnavailableError, match=f"HF_HUB_OFFLINE is set.*Unset it.*{REMEDY}"):
        load_tokenizer(PROFILE)
    fill_cache(PROFILE)
    assert load_config(PROFILE).model_type == "llama"
    # The weights are in the cache too; a part that is missing is named.
    (Path(constants.HF_HUB_CACHE) / f"models--someone--model/snapshots/{COMMIT}").joinpath(
        "tokenizer.json"
    ).unlink()
    with pytest.raises(ModelUnavailableError, match=r"someone/model|tiny"):
        load_tokenizer(PROFILE)


def test_repeated_requests_are_not_logged(
    online: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill_cache(PROFILE)
    use_endpoint(online, f"http://127.0.0.1:{refused_port()}")

    def attempt() -> None:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s")

    with caplog.at_level(logging.INFO, logger="the_block_llm"):
        call_with_loading_errors(PROFILE, attempt)
        call_with_loading_errors(PROFILE, attempt)
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "Requesting someone/model from the Hub",
        "someone/model cannot be requested from the Hub",
    ]


@pytest.mark.slow(seconds=15)
@pytest.mark.parametrize(
    "command",
    [
        ["ask", "--model", "llama-3.1-8b@base", "--no-retrieval", "What is it?"],
        ["serve", "--port", "0", "--model", "llama-3.1-8b@base"],
        ["run", "--params=model=llama-3.1-8b,repository={repository}"],
    ],
    ids=lambda command: command[0],
)
def test_commands_report_it_before_torch_is_imported(
    tmp_path: Path, small_repository: Path, command: list[str]
) -> None:
    project = copy_project(tmp_path / "project")
    script = (
        "import sys\nfrom kedro.framework.cli.cli import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{refused_port()}",
        "HF_HOME": str(tmp_path / "home"), "COLUMNS": "2000",
    }  # fmt: skip
    completed = subprocess.run(
        [sys.executable, "-c", script, *(w.format(repository=small_repository) for w in command)],
        cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert completed.returncode == 1
    assert completed.stdout.splitlines()[-1] == "False"
    assert "Error: meta-llama/Llama-3.1-8B-Instruct cannot be requested" in completed.stderr
    assert "Traceback" not in completed.stderr
    assert not (project / "data/02_intermediate/commits").exists(), "before anything is read"


def test_the_remedy_of_the_message_is_a_parameter() -> None:
    from the_block_llm.project.run_params import parse_params

    remedy = "models.llama-3.1-8b.folder=/weights"
    assert json.dumps(parse_params(remedy)) == (
        '{"models": {"llama-3.1-8b": {"folder": "/weights"}}}'
    )
