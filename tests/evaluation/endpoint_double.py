"""A small endpoint of OpenAI's contract on loopback that hears what a test tells it to."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from caspi import audio

Answer = tuple[int, str]
"""An HTTP status, and the text or what is wrong."""


@contextmanager
def endpoint(
    hear: Callable[[dict[str, str], float], Answer], *, models: list[str], key: str | None = None
) -> Iterator[str]:
    """Serve until the block ends; yields `http://HOST/v1`.

    `hear` gets the fields of the form and the mean level of the samples. Without `models` there is no list of them.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self._is_allowed():
                listed = {"object": "list", "data": [{"id": each, "object": "model"} for each in models]}
                self._reply(200 if models else 404, listed)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if not self._is_allowed():
                return
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            fields, level = {}, 0.0
            for part in BytesParser().parsebytes(head + body).walk():
                name = part.get_param("name", header="content-disposition")
                content = part.get_payload(decode=True)
                if name == "file":
                    level = float(audio.decode(content, source="upload").samples.mean())
                elif name:
                    fields[str(name)] = content.decode()
            status, text = hear(fields, level)
            self._reply(status, {"text": text} if status == 200 else {"error": {"message": text}})

        def _is_allowed(self) -> bool:
            if key is not None and self.headers["Authorization"] != f"Bearer {key}":
                self._reply(401, {"error": {"message": "no such key"}})
                return False
            return True

        def _reply(self, status: int, content: dict) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Retry-After-Ms", "1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
