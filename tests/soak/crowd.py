"""Clients that ask without pause and remember every answer."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx2 as httpx
import numpy as np

from tests.soak.clips import Recording

URL = "/v1/audio/transcriptions"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request."""

    outcome: str
    """`right`, `wrong`, an HTTP status with its code such as `429 rate_limit_exceeded`, or the name of what broke."""

    began_s: float  # `time.monotonic`
    took_s: float


@dataclass
class Crowd:
    """Clients in a loop of their own, each sending its next recording as soon as it has an answer."""

    base_url: str
    recordings: Sequence[Recording]
    expected: dict[str, str]
    """What each recording's text is, by its name."""

    headers: dict[str, str] = field(default_factory=dict)
    num_clients: int = 8
    pause_s: float = 0.0
    retries: int = 0
    """How often a client repeats what broke or was answered 5xx. OpenAI's does it twice."""

    answers: list[Answer] = field(default_factory=list)

    async def run(self, *, until: float) -> None:
        """Ask until `until` (`time.monotonic`), and for what is under way then to its end."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self.num_clients)
        async with httpx.AsyncClient(base_url=self.base_url, timeout=90, headers=self.headers, limits=limits) as http:
            await asyncio.gather(*(self._client(http, number, until) for number in range(self.num_clients)))

    async def _client(self, http: httpx.AsyncClient, number: int, until: float) -> None:
        random = np.random.default_rng(number)
        while time.monotonic() < until:
            recording = self.recordings[random.integers(len(self.recordings))]
            self.answers.append(await self.ask(http, recording))
            await asyncio.sleep(self.pause_s)

    async def ask(self, http: httpx.AsyncClient, recording: Recording) -> Answer:
        """One request, repeated where its connection breaks or the server failed."""
        began_s = time.monotonic()
        for attempt in itertools.count():
            try:
                response = await http.post(URL, files={"file": recording.upload})
                outcome, failed = self._judge(recording, response), response.status_code >= 500
            except httpx.TransportError as error:
                outcome, failed = type(error).__name__, True
            if not failed or attempt >= self.retries:
                break
            await asyncio.sleep(0.5 * 2**attempt)
        return Answer(outcome, began_s, time.monotonic() - began_s)

    def _judge(self, recording: Recording, response: httpx.Response) -> str:
        if response.status_code == 200:
            return "right" if response.json()["text"] == self.expected[recording.name] else "wrong"
        try:
            code = response.json()["error"]["code"]
        except (ValueError, LookupError, TypeError):
            code = f"without an OpenAI body: {response.text[:80]!r}"
        return f"{response.status_code} {code}"

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(answer.outcome for answer in self.answers)


async def learn(base_url: str, recordings: Sequence[Recording], headers: dict[str, str]) -> dict[str, str]:
    """What an endpoint at rest answers to each recording, asked twice: both must agree."""
    texts: dict[str, str] = {}
    async with httpx.AsyncClient(base_url=base_url, timeout=90, headers=headers) as http:
        for recording in [*recordings, *recordings]:
            response = await http.post(URL, files={"file": recording.upload})
            assert response.status_code == 200, response.text
            text = response.json()["text"]
            assert text and texts.setdefault(recording.name, text) == text, f"{recording.name}: {text!r} after {texts}"
    return texts


def describe(crowd: Crowd) -> str:
    """A line for people."""
    took = np.array([answer.took_s for answer in crowd.answers if answer.outcome == "right"])
    times = f"p50 {np.median(took):.2f} s, p99 {np.quantile(took, 0.99):.2f} s" if len(took) else "none right"
    return f"{len(crowd.answers)} requests: {dict(crowd.outcomes)}; {times}"
