"""What one visitor sees while a crowd is there, from a process of its own: a crowd's event loop has no time to look.

python -m tests.soak.probe http://127.0.0.1:8000 SECONDS
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2 as httpx
import numpy as np

from tests.soak.clips import speak
from tests.soak.crowd import URL

EVERY_S = 0.1


@dataclass
class Seen:
    """How long answers took, in milliseconds."""

    health_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return f"/healthz {_spread(self.health_ms)}; refused with 429 {_spread(self.refused_ms)}"


@contextmanager
def looking(base_url: str, *, duration_s: float) -> Iterator[Seen]:
    """Look from another process while the block runs; what it saw is there when the block has ended."""
    seen = Seen()
    command = [sys.executable, "-m", "tests.soak.probe", base_url, str(duration_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield seen
        told, _ = process.communicate(timeout=duration_s + 60)
    assert process.returncode == 0, "the probe failed"
    seen.__dict__.update(json.loads(told))


async def look(base_url: str, *, duration_s: float) -> Seen:
    """Ask for health and for a transcription, one after the other, again and again."""
    seen = Seen()
    (recording,) = speak("seen", 1, duration_s=4.0)
    until = time.monotonic() + duration_s
    async with httpx.AsyncClient(base_url=base_url, timeout=60) as http:

        async def health() -> None:
            while time.monotonic() < until:
                began = time.monotonic()
                (await http.get("/healthz")).raise_for_status()
                seen.health_ms.append(1000 * (time.monotonic() - began))
                await asyncio.sleep(EVERY_S)

        async def refusals() -> None:
            while time.monotonic() < until:
                began = time.monotonic()
                answer = await http.post(URL, files={"file": recording.upload})
                if answer.status_code == 429:
                    seen.refused_ms.append(1000 * (time.monotonic() - began))
                await asyncio.sleep(EVERY_S)

        await asyncio.gather(health(), refusals())
    return seen


def _spread(values_ms: list[float]) -> str:
    p50, p99 = np.quantile(values_ms, [0.5, 0.99])
    return f"p50 {p50:.0f}, p99 {p99:.0f} ms of {len(values_ms)}"


if __name__ == "__main__":
    print(json.dumps(asyncio.run(look(sys.argv[1], duration_s=float(sys.argv[2]))).__dict__))
