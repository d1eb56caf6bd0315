"""A steady load on an endpoint, which counts what comes back."""

import threading
import time
from collections import Counter
from typing import Any, Self

import httpx2 as httpx  # what the `openai` client brings

from tests.speech import spoken

URL = "/v1/audio/transcriptions"


class Load:
    """Clients that each send one request after another until the block ends. Nobody retries."""

    def __init__(
        self,
        url: str,
        *,
        num_clients: int,
        seconds_of_audio: float,
        stop_after: int | None = None,
        headers: dict[str, str] | None = None,
        **fields: str,
    ) -> None:
        self._url = url + URL
        self._files = {"file": ("speech.flac", spoken(seconds_of_audio))}
        self._fields = fields
        self._headers = headers or {}
        self._stop_after = stop_after
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(num_clients)]
        self.failures: list[str] = []
        self.num_good = 0
        self.latencies_s: list[float] = []
        self.versions: Counter[str] = Counter()
        self.texts: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stopped.set()
        self.wait()

    def wait(self) -> None:
        for thread in self._threads:
            thread.join(timeout=120)

    def wait_until_good(self, num_good: int, *, timeout_s: float = 60) -> None:
        """Until so many more requests were answered."""
        wanted, deadline = self.num_good + num_good, time.monotonic() + timeout_s
        while self.num_good < wanted:
            assert time.monotonic() < deadline, f"{self.num_good} of {wanted} answers; failures: {self.failures[:3]}"
            time.sleep(0.02)

    def _ask(self) -> None:
        with httpx.Client(timeout=90, headers=self._headers) as client:
            while not self._stopped.is_set() and self._stop_after != len(self.latencies_s):
                began = time.monotonic()
                try:
                    answer = client.post(self._url, files=self._files, data=self._fields)
                except httpx.HTTPError as error:
                    self._note_failure(repr(error))
                    continue
                with self._lock:
                    self.latencies_s.append(time.monotonic() - began)
                    if answer.status_code == 200:
                        self.num_good += 1
                        self.versions[answer.headers.get("x-caspi-model-version", "")] += 1
                        self.texts.append(answer.json()["text"])
                if answer.status_code != 200:
                    self._note_failure(f"{answer.status_code} {answer.text}")

    def _note_failure(self, what: str) -> None:
        with self._lock:
            self.failures.append(what)
