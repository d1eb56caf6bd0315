"""The HTTP side on a real port, over a model that a test scripts."""

import asyncio
import socket
import threading
from typing import Any

import openai
import uvicorn

from caspi.inference.engine import Clip
from caspi.inference.transcription import TokenLogProb, Transcription
from serve.api import http_app
from serve.deadline import by_deadline
from serve.errors import ApiError
from serve.metrics import Metrics
from serve.options import Options
from tests.serve.backends import Backend


class Scripted(Backend):
    """Answers `word N` to the piece that came as number N, and remembers what it was given."""

    def __init__(self) -> None:
        self.clips: list[Clip] = []
        self.num_cancelled = 0
        self.delay_s = 0.0
        self.fails_at = 0

    async def transcribe(self, clip: Clip, *, deadline: float) -> Transcription:
        self.clips.append(clip)
        number = len(self.clips)
        try:
            await by_deadline(asyncio.sleep(self.delay_s), deadline)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if number == self.fails_at:
            raise ApiError(503, "The model died while it worked on this recording.", code="model_died")
        tokens = (TokenLogProb(b"word", -0.25), TokenLogProb(f" {number}".encode(), -0.5))
        log_probs = tokens if clip.with_log_probs else None
        language = "Hebrew" if clip.language in (None, "he") else "English"
        return Transcription(f"word {number}", language, clip.duration_s, log_probs=log_probs)


class Server:
    """The HTTP side on a port, in a thread."""

    def __init__(self, *, page: str = "", **options: Any) -> None:
        self.model = Scripted()
        app = http_app(
            self.model,
            options=Options(model="double", **options),
            key_hashes=[],
            page=page,
            metrics=Metrics("test"),
        )
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))
        self._thread.start()

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()
