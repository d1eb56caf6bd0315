"""An object store that stumbles, goes away, and remembers what it was asked."""

import http.client
import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

REFUSALS = {
    "busy": (503, b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>"),
    "refuse": (403, b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"),
}


@dataclass(frozen=True)
class Asked:
    """A request for an object, or for a list of them."""

    method: str
    key: str  # without the bucket
    start: int | None  # of the range, in bytes; None: no range
    stop: int | None


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server, but fails `failures` of them first: `busy`, `refuse`, `hang up` or
    `stop in the middle`."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = port
        self.failures, self.how = 0, "busy"
        self.only = ""  # fail requests of keys that hold this
        self.asked: list[Asked] = []
        self.lock = threading.Lock()

    def fails_now(self, asked: Asked) -> bool:
        with self.lock:
            self.asked.append(asked)
            if self.only not in asked.key:
                return False
            self.failures -= 1
            return self.failures >= 0

    def ranges(self, key: str) -> list[tuple[int, int]]:
        """The ranges of an object that were asked for, sorted."""
        found = [each for each in self.asked if each.key == key and each.method == "GET"]
        return sorted((each.start, each.stop) for each in found if each.start is not None and each.stop is not None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        fails = self.server.fails_now(self._asked())
        if fails and self.server.how == "hang up":
            self.close_connection = True
            return
        if fails and self.server.how in REFUSALS:
            status, content = REFUSALS[self.server.how]
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if self.command == "GET" else b"")
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind)
        connection.request(self.command, self.path, headers=dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "connection", "date", "server", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", answer.headers["Content-Length"] or str(len(content)))
        self.end_headers()
        if fails:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content)

    do_HEAD = do_GET

    def _asked(self) -> Asked:
        key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, stop = (int(found[1]), int(found[2]) + 1) if found else (None, None)
        return Asked(self.command, key, start, stop)

    def log_message(self, *args: object) -> None:
        pass


def upload(client: Any, folder: Path, *, below: str = "") -> None:
    """Put all files of a folder into the bucket `speech`."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            client.put_object(Bucket="speech", Key=f"{below}{file.relative_to(folder)}", Body=file.read_bytes())
