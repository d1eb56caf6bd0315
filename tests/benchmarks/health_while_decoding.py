"""How soon `/healthz` answers while recordings of an hour are decoded, searched for speech and cut.

    python -m tests.benchmarks.health_while_decoding --recordings 2

The model answers at once, so that all of the processor's time is the ingress'.
"""

import argparse
import io
import subprocess
import sys
import threading
import time

import httpx2 as httpx
import numpy as np
import soundfile

from caspi.audio import SAMPLE_RATE
from tests.serve.scripted import Server
from tests.speech import lay, speak

# In a process of its own, which the decoding cannot hold up.
PROBE = """
import http.client, sys, time
connection = http.client.HTTPConnection(sys.argv[1])
until, took_ms = time.monotonic() + float(sys.argv[2]), []
while time.monotonic() < until:
    began = time.perf_counter()
    connection.request("GET", "/healthz")
    connection.getresponse().read()
    took_ms.append((time.perf_counter() - began) * 1000)
    time.sleep(0.02)
print(f"p50 {sorted(took_ms)[len(took_ms) // 2]:.1f} ms, p99 {sorted(took_ms)[int(len(took_ms) * 0.99)]:.1f} ms")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=2, help="at once; default: %(default)s")
    args = parser.parse_args()
    hour, server = _hour(), Server()
    print("idle:", _probe(server, 4))
    uploads = [threading.Thread(target=_transcribe, args=(server, hour)) for _ in range(args.recordings)]
    for upload in uploads:
        upload.start()
    time.sleep(1)
    print("busy:", _probe(server, 8))
    for upload in uploads:
        upload.join()
    server.stop()


def _hour() -> bytes:
    minute = np.concatenate([speak(25), np.zeros(10 * SAMPLE_RATE, np.float32), speak(20), lay(5)])
    encoded = io.BytesIO()
    quality = {"bitrate_mode": "CONSTANT", "compression_level": 0.9}  # 10 MB an hour, below the limit of uploads
    with soundfile.SoundFile(encoded, "w", SAMPLE_RATE, 1, format="MP3", **quality) as file:
        for _ in range(60):
            file.write(minute)
    return encoded.getvalue()


def _probe(server: Server, seconds: float) -> str:
    command = [sys.executable, "-c", PROBE, server.url.removeprefix("http://"), str(seconds)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _transcribe(server: Server, recording: bytes) -> None:
    began = time.monotonic()
    answer = httpx.post(f"{server.url}/v1/audio/transcriptions", files={"file": ("h.mp3", recording)}, timeout=600)
    answer.raise_for_status()
    print(f"{answer.json()['covered_seconds']:.0f} s covered in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
