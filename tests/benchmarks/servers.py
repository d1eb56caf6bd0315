"""Caspi's endpoint beside the obvious server and vLLM's own: one model, the same clips, one machine.

    python -m tests.benchmarks.servers [--vllm-python FOLDER/bin/python] [--servers obvious vllm caspi]
        [--size 20M] [--precisions fp32] [--clients 1 4 16] [--seconds 6] [--copies 1] [--hour]

Each server runs alone and is stopped before the next one starts. A clip is 6.4 s of WAV and its answer 24 tokens, the
same text from all; another text counts as an error. A client sends its next clip when it has its answer. The client's
own share of a core is in the last column: it is taken from the server's machine.

All servers have the weights in the same precision, one after the other where several are named.
`--copies` is how many replicas of the model share the cores at Caspi.
Where there is a GPU all use it: `--size 1.7B --precisions bf16 --clients 1 8 32 128 --max-batch-s 960`.
`--hour` then sends Caspi one recording of an hour, and compares with the model alone on the same pieces of it: by the
bare engine, and by transformers' `generate` in batches of sixteen.
"""

import argparse
import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
import torch

from caspi.audio import SAMPLE_RATE, encode_flac
from caspi.inference import serving
from caspi.inference.answer import EXTRA_TOKENS, max_new_tokens
from caspi.inference.cutting import Cutting
from caspi.inference.engine import Clip, drain, open_engine
from caspi.inference.long_form import cut
from caspi.model import Loaded, load, log_mel, num_audio_tokens, to_qwen
from caspi.recipe.sections import Inference
from tests.benchmarks.serving_material import CLIP_S, DEVICE, NUM_TOKENS, SIZES, build_model, clips, expected_text
from tests.speech import lay
from tests.vllm.environment import ENVIRONMENT

SERVERS = ("obvious", "vllm", "caspi")
BOUNDARY = "caspi-benchmark"
START_TIMEOUT_S = 300
ANSWER_TIMEOUT_S = 60
HOUR_TIMEOUT_S = 900
MAX_CLIENTS = 256

MAX_TOKENS_PER_S = (NUM_TOKENS - EXTRA_TOKENS) / CLIP_S


DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Setting:
    """How servers are run."""

    folder: Path  # of logs
    limits: Inference  # of Caspi and of its engine alone; all servers have its precision
    copies: int
    vllm_python: Path | None

    @property
    def dtype(self) -> str:
        return DTYPES[self.limits.precision]

    @property
    def recipe(self) -> str:
        return f"""
data: {{language: he, sources: [{{kind: jsonl, path: none.jsonl}}]}}
serving: {{max_upload_mb: 200, max_in_flight: {MAX_CLIENTS}, replicas: {self.copies}}}
inference: {self.limits.model_dump_json()}
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """What so many clients saw."""

    num_clients: int
    latencies_s: list[float]
    wrong: list[str]  # answers that are not the expected text
    wall_s: float
    client_share: float  # of one core

    def __str__(self) -> str:
        if not self.latencies_s:
            return f"{self.num_clients:3} clients: {len(self.wrong)} errors and no answer, such as {self.wrong[:1]}"
        rate = len(self.latencies_s) / self.wall_s
        p50, p95 = (percentile(self.latencies_s, share) for share in (0.5, 0.95))
        return (
            f"{self.num_clients:3} clients  {rate:6.1f} requests/s  {rate * CLIP_S:6.0f} x real time  "
            f"p50 {1000 * p50:6.0f} ms  p95 {1000 * p95:6.0f} ms  {len(self.wrong)} errors  "
            f"client {100 * self.client_share:.0f}% of a core"
        )


def device_name() -> str:
    return torch.cuda.get_device_name() if DEVICE == "cuda" else f"{os.cpu_count()} cores"


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def command(server: str, model: Path, port: int, setting: Setting) -> list[str]:
    """What starts a server. All are told the same bound of tokens, by the request or here."""
    match server:
        case "obvious":
            return [sys.executable, "-m", "tests.benchmarks.obvious_server", str(model), str(port), setting.dtype]
        case "caspi":
            file = setting.folder / "caspi.yaml"
            file.write_text(setting.recipe, encoding="utf-8")
            options = ["--model", str(model), "--port", str(port), "--recipe", str(file)]
            return [sys.executable, "-m", "caspi", "serve", *options]
    # Without its caches: the clips come again and again, which recordings do not.
    options = "--max-model-len 1024 --enforce-eager --no-enable-prefix-caching --mm-processor-cache-gb 0"
    module = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", "caspi"]
    return [
        str(setting.vllm_python),
        *module,
        "--port",
        str(port),
        "--dtype",
        setting.dtype,
        *options.split(),
        "--limit-mm-per-prompt",
        '{"audio": 1}',
    ]


def environment(server: str, num_threads: int) -> dict[str, str]:
    """All may use all cores. Ray gives a replica one core less than it has, for the ingress."""
    if server != "vllm":
        return {**os.environ, "CASPI_NUM_CPUS": str(num_threads + 1)}
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**inherited, **ENVIRONMENT, "OMP_NUM_THREADS": str(num_threads)}


@contextmanager
def running(server: str, model: Path, setting: Setting) -> Iterator[str]:
    """The server in a group of processes of its own, for as long as the block runs; yields its transcriptions' URL."""
    port = serving._claim_port("127.0.0.1", 0)
    log = setting.folder / f"{server}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(server, model, port, setting),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(server, os.cpu_count() or 2),
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}/v1/audio/transcriptions"
        _await_start(process, url, encode(clips(1)[0], server), log)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            _kill_group(process.pid)
            process.wait()


def _await_start(process: subprocess.Popen[bytes], url: str, body: bytes, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            answer = httpx2.post(url, content=body, headers=HEADERS, timeout=ANSWER_TIMEOUT_S)
            if answer.status_code == 200:
                return
            if answer.status_code in (400, 413, 415, 422):  # not 404: Serve listens before it has the application
                raise SystemExit(f"the server refuses the clip: {answer.text}")
        except httpx2.TransportError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"the server did not start; its last lines:\n{log.read_text(errors='replace')[-3000:]}")


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def encode(clip: bytes, server: str) -> bytes:
    """A request's body, made once: composing it is no server's work."""
    bound = {"max_completion_tokens": str(NUM_TOKENS)} if server == "vllm" else {}
    fields = {"model": "caspi", "language": "he", **bound}
    parts = [f'name="{name}"\r\n\r\n{value}' for name, value in fields.items()]
    parts.append('name="file"; filename="clip.wav"\r\nContent-Type: audio/wav\r\n\r\n')
    head = "\r\n".join(f"--{BOUNDARY}\r\nContent-Disposition: form-data; {part}" for part in parts)
    return head.encode() + clip + f"\r\n--{BOUNDARY}--\r\n".encode()


async def measure(url: str, bodies: Sequence[bytes], text: str, *, num_clients: int, duration_s: float) -> Measured:
    """Have clients ask for `duration_s`, each its next clip when it has its answer; all that was asked is answered."""
    latencies_s: list[float] = []
    wrong: list[str] = []
    order = itertools.cycle(bodies)
    async with httpx2.AsyncClient(headers=HEADERS, timeout=ANSWER_TIMEOUT_S) as http:

        async def ask_until(end: float, *, counts: bool) -> None:
            while time.perf_counter() < end:
                began = time.perf_counter()
                answer = await http.post(url, content=next(order))
                if not counts:
                    continue
                if answer.status_code == 200 and answer.json()["text"].strip() == text:
                    latencies_s.append(time.perf_counter() - began)
                else:
                    wrong.append(answer.text)

        async def all_until(end: float, *, counts: bool) -> None:
            await asyncio.gather(*(ask_until(end, counts=counts) for _ in range(num_clients)))

        await all_until(time.perf_counter() + 2, counts=False)
        began, began_cpu = time.perf_counter(), time.process_time()
        await all_until(began + duration_s, counts=True)
        wall_s = time.perf_counter() - began
        share = (time.process_time() - began_cpu) / wall_s
    return Measured(num_clients, latencies_s, wrong, wall_s, share)


def in_original_layout(model: Path) -> Path:
    """The same weights as vLLM wants them: in the native layout it finds no place for an output layer of its own."""
    exported = model.with_name(f"{model.name}-qwen")
    if not exported.exists():
        to_qwen(model, exported)
    return exported


def recorded(duration_s: float) -> np.ndarray:
    """Sentences of six seconds with pauses, (num_samples,) float32."""
    return lay(duration_s, *((start_s, start_s + 6.0) for start_s in np.arange(0.4, duration_s - 6.4, 6.8)))


def engine_s(model: Path, pieces: Sequence[Clip], setting: Setting) -> float:
    """Seconds that the engine alone takes, all pieces there, with the bounds that it has at the endpoint."""
    engine = open_engine(model, limits=setting.limits)
    drain(engine, pieces[:40])
    began = time.perf_counter()
    drain(engine, pieces)
    return time.perf_counter() - began


def generate_s(model: Path, pieces: Sequence[Clip], setting: Setting, *, size: int = 16) -> float:
    """Seconds that transformers' own loop takes, in batches of pieces of similar length."""
    loaded = load(model, device=DEVICE, dtype=getattr(torch, setting.dtype))
    ordered = sorted(pieces, key=lambda piece: piece.duration_s)
    generate(loaded, ordered[:size], setting.limits)
    began = time.perf_counter()
    for first in range(0, len(ordered), size):
        generate(loaded, ordered[first : first + size], setting.limits)
    return time.perf_counter() - began


@torch.inference_mode()
def generate(loaded: Loaded, batch: Sequence[Clip], limits: Inference) -> None:
    """What `generate` writes for a batch, each answer as long as the longest may be."""
    features = log_mel([piece.samples for piece in batch])
    prompts = [loaded.prompter.prompt(num_audio_tokens(len(piece.samples)), language="Hebrew") for piece in batch]
    width = max(map(len, prompts))
    loaded.model.generate(
        input_ids=torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=DEVICE),
        attention_mask=torch.tensor(
            [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=DEVICE
        ),
        input_features=features.values.to(DEVICE, loaded.model.dtype),
        input_features_mask=features.mask.to(DEVICE),
        max_new_tokens=max(max_new_tokens(piece, limits) for piece in batch),
        do_sample=False,
    )


def served_rtfx(url: str, sound: np.ndarray) -> tuple[float, float]:
    """The whole recording through HTTP, decoding and finding speech included; and the seconds that were covered."""
    body = encode(encode_flac(sound), "caspi")
    began = time.perf_counter()
    answer = httpx2.post(url, content=body, headers=HEADERS, timeout=HOUR_TIMEOUT_S).raise_for_status().json()
    return len(sound) / SAMPLE_RATE / (time.perf_counter() - began), answer["covered_seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--vllm-python", type=Path, help="the interpreter of vLLM's environment; without it, no vLLM")
    parser.add_argument("--size", choices=SIZES, default="20M", help="of the model")
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=["fp32"], help="of the weights")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--copies", type=int, default=1, help="replicas of the model at Caspi")
    parser.add_argument("--max-batch-s", type=float, default=120.0, help="audio that Caspi decodes together")
    parser.add_argument("--hour", action="store_true", help="a recording of an hour as well")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-servers"), help="for models and logs")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the server is stopped too
    folder = arguments.folder.absolute()
    model = build_model(folder / f"model-{arguments.size}".lower(), arguments.size)
    print(f"{arguments.size} on {device_name()}, clips of {CLIP_S} s, {NUM_TOKENS} tokens")
    servers = [each for each in arguments.servers if each != "vllm" or arguments.vllm_python is not None]
    for precision in arguments.precisions:
        limits = Inference(max_batch_s=arguments.max_batch_s, max_tokens_per_s=MAX_TOKENS_PER_S, precision=precision)
        setting = Setting(folder, limits, arguments.copies, arguments.vllm_python)
        for server in servers:
            compare_clients(server, model, setting, arguments.clients, arguments.seconds)
        if arguments.hour:
            compare_hour(model, setting)


def compare_clients(server: str, model: Path, setting: Setting, clients: Sequence[int], duration_s: float) -> None:
    """Print what so many clients see of a server, for each number of them."""
    bodies, text = [encode(clip, server) for clip in clips(64)], expected_text(model)
    with running(server, in_original_layout(model) if server == "vllm" else model, setting) as url:
        for num_clients in clients:
            seen = asyncio.run(measure(url, bodies, text, num_clients=num_clients, duration_s=duration_s))
            print(f"{setting.limits.precision} {server:8} {seen}", flush=True)


def compare_hour(model: Path, setting: Setting) -> None:
    """Print how fast an hour is served, and how fast its pieces are transcribed by the model alone."""
    sound = recorded(3600)
    pieces = [
        Clip.of(piece.samples, language="he") for piece in cut(sound, cutting=Cutting()) if piece.samples is not None
    ]
    length_s = len(sound) / SAMPLE_RATE
    engine, batches = (length_s / run(model, pieces, setting) for run in (engine_s, generate_s))
    with running("caspi", model, setting) as url:
        served, covered_s = served_rtfx(url, sound)
    print(
        f"{setting.limits.precision} an hour: {served:.0f} x real time; generate in batches {batches:.0f}: "
        f"{served / batches:.2f}; the bare engine {engine:.0f}: {served / engine:.2f}; covered {covered_s} s"
    )


if __name__ == "__main__":
    main()
