"""What goes wrong around an endpoint: killed processes, slow and vanishing clients, garbage."""

import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx2 as httpx
import numpy as np

from tests.soak import processes
from tests.soak.clips import Recording
from tests.soak.crowd import URL


@dataclass
class Chaos:
    """Makes trouble, one event after the other, in an order that a seed decides."""

    base_url: str
    recordings: Sequence[Recording]
    headers: dict[str, str] = field(default_factory=dict)
    num_replicas: int = 2
    """Of the model, and of the ingress."""

    extra: Sequence[Callable[[], None]] = ()
    """Events beside the own ones, such as exchanging the model."""

    done: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    """How garbage was answered."""

    def run(self, *, until: float, every_s: float, seed: int = 0) -> None:
        """An event every so often until `until` (`time.monotonic`). Each kind comes once before any comes again."""
        random = np.random.default_rng(seed)
        events = [
            self.kill_a_model,
            self.kill_an_ingress,
            self.send_slowly,
            self.vanish,
            self.send_garbage,
            self.half_a_body,
            *self.extra,
        ]
        while time.monotonic() < until:
            for place in random.permutation(len(events)):
                next_at = time.monotonic() + every_s
                if next_at > until:
                    return
                events[place]()
                self.done[events[place].__name__] += 1
                time.sleep(max(0.0, next_at - time.monotonic()))

    def kill_a_model(self) -> None:
        """One of several, once all are there: what is killed faster than it starts is not an endpoint any more."""
        processes.kill(processes.wait_for_replicas(processes.MODEL, self.num_replicas)[0])

    def kill_an_ingress(self) -> None:
        """Likewise. What it held breaks, and is for the clients to repeat."""
        processes.kill(processes.wait_for_replicas(processes.INGRESS, self.num_replicas)[0])

    def send_slowly(self) -> None:
        """Headers that come letter by letter and never end."""
        with self._connect() as connection:
            for letter in f"POST {URL} HTTP/1.1\r\nHost: {self._address[0]}\r\n":
                connection.send(letter.encode())
                time.sleep(0.02)

    def half_a_body(self) -> None:
        """Half of what the headers promise, then nothing, then gone."""
        with self._connect() as connection:
            connection.sendall(self._request(self.recordings[0])[:-2000])
            time.sleep(1)

    def vanish(self) -> None:
        """A whole request, and a client that does not wait for the answer."""
        with self._connect() as connection:
            connection.sendall(self._request(self.recordings[-1]))
            time.sleep(0.05)

    def send_garbage(self) -> None:
        """Bytes that are no audio, and a body that is no form."""
        noise = np.random.default_rng(int(self.done.total())).bytes(5000)
        with httpx.Client(base_url=self.base_url, headers=self.headers, timeout=60) as http:
            for request in (
                {"files": {"file": ("noise.wav", noise)}},
                {"content": noise},
                {"data": {"model": "caspi"}},
            ):
                self.refusals[str(http.post(URL, **request).status_code)] += 1

    @property
    def _address(self) -> tuple[str, int]:
        parts = urlsplit(self.base_url)
        assert parts.hostname and parts.port
        return parts.hostname, parts.port

    def _connect(self) -> socket.socket:
        return socket.create_connection(self._address, timeout=30)

    def _request(self, recording: Recording) -> bytes:
        request = httpx.Request("POST", self.base_url + URL, files={"file": recording.upload}, headers=self.headers)
        lines = [f"POST {URL} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items()), "", ""]
        return "\r\n".join(lines).encode() + request.read()
