"""Slow and endless headers, by raw sockets: at uvicorn alone, and at the proxy of a real `caspi serve`."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.config import HTTP_PROTOCOLS

from caspi.inference import serving
from caspi.inference.header_deadline import MAX_HEADER_BYTES, install
from tests.serve.test_launcher import SERVE_UNTIL_STOPPED

HEADER_TIMEOUT_S = 1.0
HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
PATIENCE_S = 30


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
    await send({"type": "http.response.body", "body": b"ok\n"})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of a uvicorn server, configured as Serve does it."""
    monkeypatch.setenv("CASPI_HEADER_TIMEOUT_S", str(HEADER_TIMEOUT_S))
    for kind, path in HTTP_PROTOCOLS.items():
        monkeypatch.setitem(HTTP_PROTOCOLS, kind, path)
    assert install() == []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(hello, lifespan="off", log_config=None, timeout_keep_alive=60))
        thread = threading.Thread(target=asyncio.run, args=(server.serve([listening]),))
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    connection.settimeout(PATIENCE_S)
    return connection


def answer(connection: socket.socket) -> bytes:
    """What comes until `ok`, or until the other side closes."""
    received = b""
    while not received.endswith(b"ok\n"):
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            break
        if not part:
            break
        received += part
    return received


def drip(connection: socket.socket) -> bool:
    """A header byte now and then; whether the other side put an end to it."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            connection.sendall(b"a")
            time.sleep(0.2)
        except (BrokenPipeError, ConnectionResetError):
            return True
    return False


def test_a_connection_that_says_nothing_is_closed(port: int) -> None:
    with connect(port) as connection:
        assert answer(connection) == b""


def test_headers_that_drip_are_cut_off(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(HEAD)
        assert drip(connection)


def test_headers_without_end_are_cut_off(port: int) -> None:
    with connect(port) as connection:
        line = b"x-long: " + b"a" * 1000 + b"\r\n"
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall(HEAD)
            for _ in range(50 * MAX_HEADER_BYTES // len(line)):
                connection.sendall(line)


def test_a_single_header_without_end_is_cut_off(port: int) -> None:
    """Of which the parser tells nothing."""
    with connect(port) as connection:
        connection.sendall(HEAD + b"x-long: ")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(500):
                connection.sendall(b"a" * MAX_HEADER_BYTES)


def test_a_line_break_after_an_answer_does_not_keep_a_connection(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert answer(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(b"\r\n")
        assert answer(connection) == b""


def test_the_second_request_of_a_connection_has_the_same_deadline(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert answer(connection).startswith(b"HTTP/1.1 200")
        time.sleep(1.5 * HEADER_TIMEOUT_S)  # between requests it is the keep-alive that counts
        connection.sendall(HEAD + b"\r\n")
        assert answer(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(HEAD)
        assert drip(connection)


def test_a_slow_body_is_no_matter_of_the_headers(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\n\r\n")
        time.sleep(1.5 * HEADER_TIMEOUT_S)
        connection.sendall(b"body")
        assert answer(connection).startswith(b"HTTP/1.1 200")


def test_slow_clients_take_nothing_from_others_at_a_real_endpoint(toy_model: Path, tmp_path: Path) -> None:
    """A slow loris: a hundred connections with headers that never end, at Serve's own proxy."""
    root = Path(serving.__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root / "platform"), "CASPI_NUM_CPUS": "2"}
    environment |= {"CASPI_OBJECT_STORE_MB": "150", "CASPI_HEADER_TIMEOUT_S": str(HEADER_TIMEOUT_S)}
    command = [sys.executable, "-c", SERVE_UNTIL_STOPPED, str(toy_model)]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline().strip().rpartition(":")[2])
            slow = [connect(port) for _ in range(100)]
            for connection in slow:
                connection.sendall(HEAD)
            with connect(port) as quick:
                quick.sendall(HEAD + b"Connection: close\r\n\r\n")
                assert answer(quick).startswith(b"HTTP/1.1 200")
            for connection in slow:
                assert answer(connection) == b""
                connection.close()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
