"""What the HTTP side adds to a call of the model's handle.

    python -m tests.benchmarks.ingress
    RAY_SERVE_ENABLE_HA_PROXY=1 python -m tests.benchmarks.ingress

A model replica that answers at once, one ingress replica or `--ingress-replicas`, one client with a connection that it
keeps, a clip of five seconds as FLAC. What HTTP adds is the difference between two ways to its transcription: by a
request, and by a process of the cluster that decodes the clip, finds speech and calls the handle. The handle alone,
decoding alone and `/healthz` are measured beside it. Each way once in every round, in another order each time: whatever
else the machine does meets all of them, and so does the state in which they leave its caches. At last requests that are
refused at the door because the server is full. Prints medians and 95th percentiles.
"""

import argparse
import http.client
import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import numpy as np
import ray
import ray.serve

from caspi import audio
from caspi.inference import serving
from caspi.inference.long_form import cut
from caspi.inference.transcription import Transcription
from serve.app import CLIPS_IN_MESSAGES
from serve.batching import Clip
from serve.schemas import Fields
from tests.serve.conftest import build_with, run
from tests.speech import speak

SECONDS = 5.0
URL = "/v1/audio/transcriptions"
ROOM = 2  # transcriptions at once in each ingress
HOLD_S = 4.0
WARM_UP = 30  # rounds


class Immediate:
    """Answers at once; with the prompt "hold" after a while."""

    def transcribe_batch(self, clips: Sequence[np.ndarray], *, prompts: Any = (), **_: Any) -> list[Transcription]:
        if "hold" in prompts:
            time.sleep(HOLD_S)
        return [Transcription("heard", "Hebrew", len(clip) / audio.SAMPLE_RATE) for clip in clips]


@ray.remote(num_cpus=0, runtime_env={"env_vars": CLIPS_IN_MESSAGES})
class Neighbour:
    """A process of the cluster, as the ingress is one, without HTTP."""

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded
        self._clip = Clip.of(audio.decode(encoded, source="clip").samples)
        self._handle = ray.serve.get_deployment_handle("TranscriptionModel", serving.APPLICATION)

    def call(self) -> float:
        return timed(lambda: self._ask(self._clip))

    def cut(self) -> float:
        return timed(self._cut)

    def cut_and_call(self) -> float:
        return timed(self._cut_and_ask)

    def _cut_and_ask(self) -> None:
        for samples in self._cut():
            self._ask(Clip.of(samples))

    def _ask(self, clip: Clip) -> None:
        self._handle.transcribe.remote(clip).result(timeout_s=30)

    def _cut(self) -> list[np.ndarray]:
        """What an ingress does with a recording before it asks the model."""
        pieces = cut(self._encoded, cutting=Fields().cutting, name="clip", max_duration_s=60)
        return [piece.samples for piece in pieces if piece.samples is not None]


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def measure(url: str, *, num_rounds: int, num_ingresses: int) -> dict[str, list[float]]:
    encoded = audio.encode_flac(speak(SECONDS))
    files = {"file": ("speech.flac", encoded)}
    composed = httpx.Request("POST", url + URL, files=files)
    body, headers = composed.read(), {"Content-Type": composed.headers["Content-Type"]}
    # Python's own client: what another one does besides, half a millisecond of it, is no server's work.
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)

    def ask(method: str, path: str, body: bytes | None = None) -> None:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()

    neighbour: Any = Neighbour.remote(encoded)  # type: ignore[attr-defined]  # added by ray.remote
    ways: dict[str, Callable[[], float]] = {
        "handle": lambda: ray.get(neighbour.call.remote()),
        "cutting": lambda: ray.get(neighbour.cut.remote()),
        "cutting and handle": lambda: ray.get(neighbour.cut_and_call.remote()),
        "request": lambda: timed(lambda: ask("POST", URL, body)),
        "healthz": lambda: timed(lambda: ask("GET", "/healthz")),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    order = random.Random(0)
    for number in range(WARM_UP + num_rounds):
        for way in order.sample(list(ways), len(ways)):
            taken = ways[way]()
            if number >= WARM_UP:
                times[way].append(taken)
    with httpx.Client(base_url=url, timeout=60) as client:
        times["refused when full"] = refusals(url, client, files, num=40, num_holders=ROOM * num_ingresses)
    return times


def refusals(url: str, client: httpx.Client, files: Any, *, num: int, num_holders: int) -> list[float]:
    """Requests beside enough others to fill the server."""

    def hold() -> None:
        while httpx.post(url + URL, files=files, data={"prompt": "hold"}, timeout=60).status_code == 429:
            time.sleep(0.02)

    holders = [threading.Thread(target=hold) for _ in range(num_holders)]
    for holder in holders:
        holder.start()
    time.sleep(1)
    times = []
    for _ in range(num):
        answers: list[httpx.Response] = []
        times.append(timed(lambda: answers.append(client.post(URL, files=files))))  # noqa: B023
        assert answers[0].status_code == 429, answers[0].text
    for holder in holders:
        holder.join()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--ingress-replicas", type=int, default=1)
    args = parser.parse_args()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=150 * 2**20)
    options = {"batch_wait_s": 0, "max_in_flight": ROOM, "ingress_replicas": args.ingress_replicas, "num_cpus": 0.2}
    with run(build_with(Immediate, **options)) as url:
        times = measure(url, num_rounds=args.rounds, num_ingresses=args.ingress_replicas)
    proxy = "HAProxy" if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else "Serve's own proxy"
    print(f"{proxy}, {args.rounds} of each, milliseconds")
    for way, measured in times.items():
        print(f"{way:18} p50 {statistics.median(measured):6.2f}  p95 {np.percentile(measured, 95):6.2f}")
    added = statistics.median(times["request"]) - statistics.median(times["cutting and handle"])
    print(f"what HTTP adds, p50: {added:.2f}")


if __name__ == "__main__":
    main()
