"""What the HTTP side adds to a call of the model's handle.

    python -m tests.benchmarks.ingress
    RAY_SERVE_ENABLE_HA_PROXY=1 python -m tests.benchmarks.ingress

A model replica that answers at once, one ingress replica or `--ingress-replicas`, one client with a connection that it
keeps, a clip of five seconds as FLAC. Four ways in turn, so that whatever else the machine does meets all of them: the
handle from a process beside the replicas, the whole way, decoding and finding speech alone, and `/healthz`; then
requests that are refused at the door because the server is full. Prints medians and 95th percentiles.
"""

import argparse
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

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


class Immediate:
    """Answers at once; with the prompt "hold" after a while."""

    def transcribe_batch(self, clips: Sequence[np.ndarray], *, prompts: Any = (), **_: Any) -> list[Transcription]:
        if "hold" in prompts:
            time.sleep(HOLD_S)
        return [Transcription("heard", "Hebrew", len(clip) / audio.SAMPLE_RATE) for clip in clips]


@ray.remote(num_cpus=0, runtime_env={"env_vars": CLIPS_IN_MESSAGES})
class Neighbour:
    """Calls the handle from a process of the cluster, as the ingress does."""

    def call(self, clip: Clip, num_calls: int) -> list[float]:
        handle = ray.serve.get_deployment_handle("TranscriptionModel", serving.APPLICATION)
        return [timed(lambda: handle.transcribe.remote(clip).result(timeout_s=30)) for _ in range(num_calls)]


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def measure(url: str, *, num_rounds: int, per_round: int, num_ingresses: int) -> dict[str, list[float]]:
    samples = speak(SECONDS)
    files = {"file": ("speech.flac", audio.encode_flac(samples))}
    neighbour = Neighbour.remote()
    times: dict[str, list[float]] = {"handle": [], "request": [], "cutting": [], "healthz": []}
    with httpx.Client(base_url=url, timeout=60) as client:
        composed = client.build_request("POST", URL, files=files)  # once: composing it is no server's work
        body, headers = composed.read(), {"Content-Type": composed.headers["Content-Type"]}

        def ask() -> None:
            assert client.post(URL, content=body, headers=headers).status_code == 200

        for number in range(num_rounds + 1):
            taken = {
                "handle": ray.get(neighbour.call.remote(Clip.of(samples), per_round), timeout=120),
                "request": [timed(ask) for _ in range(per_round)],
                "cutting": [timed(lambda: cut_all(files["file"][1])) for _ in range(per_round)],
                "healthz": [timed(lambda: client.get("/healthz")) for _ in range(per_round)],
            }
            if number:  # the first round warms up
                for way, measured in taken.items():
                    times[way] += measured
        times["refused when full"] = refusals(url, client, files, num=per_round, num_holders=ROOM * num_ingresses)
    return times


def cut_all(encoded: bytes) -> None:
    """What an ingress does with a recording before it asks the model."""
    assert list(cut(encoded, cutting=Fields().cutting, name="clip", max_duration_s=60))


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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--per-round", type=int, default=40)
    parser.add_argument("--ingress-replicas", type=int, default=1)
    args = parser.parse_args()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=150 * 2**20)
    options = {"batch_wait_s": 0, "max_in_flight": ROOM, "ingress_replicas": args.ingress_replicas, "num_cpus": 0.2}
    with run(build_with(Immediate, **options)) as url:
        times = measure(url, num_rounds=args.rounds, per_round=args.per_round, num_ingresses=args.ingress_replicas)
    proxy = "HAProxy" if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else "Serve's own proxy"
    print(f"{proxy}, {args.rounds * args.per_round} of each, milliseconds")
    for way, measured in times.items():
        print(f"{way:18} p50 {statistics.median(measured):6.2f}  p95 {np.percentile(measured, 95):6.2f}")
    work = statistics.median(times["handle"]) + statistics.median(times["cutting"])
    print(f"overhead over handle and cutting, p50: {statistics.median(times['request']) - work:.2f}")


if __name__ == "__main__":
    main()
