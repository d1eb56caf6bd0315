"""An MLflow that goes wrong: a server that can be stopped and killed, and a proxy that answers as it is told."""

import contextlib
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from caspi.memory import descendants
from caspi.tracking import server


class OwnServer:
    """An embedded MLflow server on a port that stays the same, over `CASPI_HOME`'s database."""

    def __init__(self) -> None:
        self._port = free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._running = contextlib.ExitStack()
        self._pid = 0

    def __enter__(self) -> "OwnServer":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._running.close()

    def start(self) -> None:
        before = set(descendants(os.getpid()))
        self._running.enter_context(server(port=self._port))
        (self._pid,) = set(descendants(os.getpid())) - before

    def kill(self) -> None:
        """As a machine that goes down."""
        os.kill(self._pid, signal.SIGKILL)
        self._running.close()

    def stop(self) -> None:
        """It stands still: connections are accepted by the kernel and nothing answers."""
        os.kill(self._pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._pid, signal.SIGCONT)


class Proxy:
    """A fixed address in front of a server. Without a `target` it hangs up."""

    def __init__(self, target: str | None = None) -> None:
        self.target = target
        self.delay_s = 0.0  # of every answer, for as long as it is not changed
        self.status: int | None = None  # what to answer instead of the server
        self.message = b"<html>something is wrong"
        self.applies: Callable[[str], bool] = lambda path: True  # which paths the two above are for
        self.paths: list[str] = []  # every one that was asked for

    def __enter__(self) -> "Proxy":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def is_artifact(path: str) -> bool:
    return "mlflow-artifacts" in path


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            proxy.paths.append(self.path)
            if proxy.target is None:
                return
            is_faulty = proxy.applies(self.path)
            if is_faulty and proxy.status is not None:
                self._answer(proxy.status, proxy.message)
                return
            headers = {name: self.headers[name] for name in ("Content-Type",) if name in self.headers}
            request = urllib.request.Request(proxy.target + self.path, body or None, headers, method=self.command)
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    answer = response.status, response.read()
            except urllib.error.HTTPError as error:
                answer = error.code, error.read()
            except OSError:
                return
            answered_at = time.monotonic()
            while is_faulty and time.monotonic() < answered_at + proxy.delay_s:
                time.sleep(0.05)
            self._answer(*answer)

        def _answer(self, status: int, body: bytes) -> None:
            with contextlib.suppress(OSError):  # nobody waits for it any more
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def until(claim: Callable[[], bool]) -> None:
    """Wait for something that will be true soon."""
    deadline = time.monotonic() + 60
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.1)
