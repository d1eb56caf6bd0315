"""How fast `prepare` is, against a bare loop of the same decoders and against librosa, and how much memory it takes.

    python tests/benchmarks/prepare.py --hours 3            # speed; figures are ratios within one run
    python tests/benchmarks/prepare.py --memory 1 20        # peak memory of 1 h and of 20 h

The material is made first: clips of 3 to 15 seconds as MP3 44.1 kHz, Opus 48 kHz and FLAC 48 kHz, a third each.
"""

import argparse
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import librosa
import numpy as np
import soundfile
import yaml

from caspi import audio, ray_session
from caspi.corpus import prepare
from caspi.memory import tree_memory
from caspi.recipe import load_recipe

_FORMATS = {
    "mp3": ("MP3", "MPEG_LAYER_III", 44100),
    "opus": ("OGG", "OPUS", 48000),
    "flac": ("FLAC", "PCM_16", 48000),
}

# How much of the material the slow ways are tried on.
_SEED_S = 900.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--times", type=int, default=1, help="prepare the material so many times over, under other ids")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=float, nargs="+", metavar="HOURS", help="measure peak memory instead")
    parser.add_argument("--folder", type=Path, help="where to keep the material; default: a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if args.memory:
            compare_memory(folder, args.memory, args.cores)
        else:
            compare_speed(folder, args.hours, args.times, args.cores, args.repeats)


def compare_speed(folder: Path, hours: float, times: int, cores: int, repeats: int) -> None:
    """A table of rates, in seconds of audio a second."""
    os.environ["CASPI_NUM_CPUS"] = str(cores)
    files = make_material(folder, hours)
    seconds = sum(files.values())
    print(f"{len(files)} clips, {seconds / 3600:.2f} h, prepared {times} times over, {cores} cores, best of {repeats}")
    for name in _FORMATS:
        some = {path: duration for path, duration in files.items() if path.suffix == f".{name}"}
        ours, theirs = rate(bare_loop, some), rate(seeds_way, first_seconds(some, _SEED_S))
        print(
            f"  {name:<5} bare loop {ours:6.0f} x real time a core; librosa + WAV {theirs:6.0f} ({ours / theirs:.2f} x)"
        )
    began = time.perf_counter()
    bare, at_once, whole = [], [], []
    with ray_session.connect(), ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        warm_up(folder, files)
        bare_loops(pool, cores, first_seconds(files, 60.0))
        print(f"  Ray and its workers started in {time.perf_counter() - began:.1f} s, not counted below")
        for number in range(repeats):  # by turns, so that both meet the same noise
            bare.append(rate(bare_loop, files))
            at_once.append(rate(partial(bare_loops, pool, cores), files))
            whole.append(prepared_rate(folder, files, f"corpus-{number}", times))
    seed = rate(seeds_way, first_seconds(files, _SEED_S))
    print(
        f"  bare loop      {max(bare):6.0f} x real time, one process (of {', '.join(f'{each:.0f}' for each in bare)})"
    )
    print(f"  {cores} bare loops   {max(at_once):6.0f} x real time, at once: what the machine can give")
    each = ", ".join(f"{one:.0f}" for one in whole)
    print(f"  caspi prepare  {max(whole):6.0f} x real time, {cores} cores (of {each})")
    print(f"  librosa + WAV  {seed:6.0f} x real time, one process")
    ratios = [ours / (cores * alone) for ours, alone in zip(whole, bare, strict=True)]
    print(f"  prepare / (cores x bare loop) = {statistics.median(ratios):.2f}, median of {repeats} (0.85 wanted)")
    shares = [ours / theirs for ours, theirs in zip(whole, at_once, strict=True)]
    print(f"  prepare / {cores} bare loops at once = {statistics.median(shares):.2f}")
    print(f"  prepare / librosa's way       = {statistics.median(whole) / seed:.2f} (2 wanted)")


def compare_memory(folder: Path, hours: list[float], cores: int) -> None:
    """Peak proportional set size of `caspi prepare` and all its processes, for corpora of different length."""
    files = make_material(folder, 0.5)
    peaks = {}
    for length in hours:
        lines = [
            {"id": f"{number}-{path.stem}", "audio": str(path), "text": "שלום עולם זה מבחן של מהירות"}
            for number in range(round(length / 0.5))
            for path in files
        ]
        recipe = write_recipe(folder, f"memory-{length:g}", lines)
        peaks[length], took = peak_memory(recipe, folder / f"corpus-memory-{length:g}", cores)
        print(f"  {length:5.1f} h: {len(lines)} clips, peak {peaks[length] / 2**20:.0f} MiB, {took:.0f} s")
    print(f"  largest / smallest = {max(peaks.values()) / min(peaks.values()):.3f} (1.10 allowed)")


def peak_memory(recipe: Path, output: Path, cores: int) -> tuple[int, float]:
    environment = {**os.environ, "CASPI_NUM_CPUS": str(cores), "CASPI_HOME": str(output.parent)}
    began, peak = time.perf_counter(), 0
    words = [sys.executable, "-m", "caspi", "prepare", str(recipe), "--output", str(output)]
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, tree_memory(process.pid))
            time.sleep(0.25)
    assert process.returncode == 0
    return peak, time.perf_counter() - began


def make_material(folder: Path, hours: float) -> dict[Path, float]:
    """Clips on disk with their seconds; what an earlier run made is used again."""
    index = folder / f"material-{hours:g}.json"
    if not index.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made: dict[str, float] = {}
        chance = np.random.default_rng(0)
        voices = {rate: speech_like(600, rate, chance) for rate in (44100, 48000)}
        while sum(made.values()) < hours * 3600:
            name = list(_FORMATS)[len(made) % len(_FORMATS)]
            container, subtype, sample_rate = _FORMATS[name]
            length = round(chance.uniform(3, 15) * sample_rate)
            start = int(chance.integers(len(voices[sample_rate]) - length))
            path = folder / f"{hours:g}h-{len(made):06d}.{name}"
            soundfile.write(path, voices[sample_rate][start : start + length], sample_rate, subtype, format=container)
            made[str(path)] = length / sample_rate
        index.write_text(json.dumps(made))
    return {Path(path): duration for path, duration in json.loads(index.read_text()).items()}


def speech_like(seconds: float, sample_rate: int, chance: np.random.Generator) -> np.ndarray:
    """Harmonics of a wandering pitch in syllables, with pauses and a noise floor; it compresses as speech does."""
    time_s = np.arange(round(seconds * sample_rate)) / sample_rate
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.3 * time_s) + 15 * np.sin(2 * np.pi * 1.7 * time_s)
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    voice = sum(np.sin(order * phase) / order**1.5 for order in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * 4 * time_s) + 0.5 * np.sin(2 * np.pi * 0.7 * time_s), 0, 1)
    noise = chance.standard_normal(len(time_s)) * 0.002
    return (0.15 * voice * syllables + noise).astype(np.float32)


def rate(way: Callable[[dict[Path, float]], None], files: dict[Path, float]) -> float:
    began = time.perf_counter()
    way(files)
    return sum(files.values()) / (time.perf_counter() - began)


def bare_loop(files: dict[Path, float]) -> None:
    """What cannot be left out: decode, resample, encode."""
    for path in files:
        audio.encode_flac(audio.decode(path.read_bytes(), source=path.name).samples)


def bare_loops(pool: ProcessPoolExecutor, cores: int, files: dict[Path, float]) -> None:
    """As many at once as there are cores, a share of the files each."""
    shares = [dict(list(files.items())[first::cores]) for first in range(cores)]
    list(pool.map(bare_loop, shares))


def seeds_way(files: dict[Path, float]) -> None:
    """How it is usually done: librosa to load and resample, WAV to disk."""
    for path in files:
        samples, sample_rate = librosa.load(io.BytesIO(path.read_bytes()), sr=16000, mono=True)
        soundfile.write(path.with_suffix(".wav"), samples, int(sample_rate))
        path.with_suffix(".wav").unlink()


def first_seconds(files: dict[Path, float], seconds: float) -> dict[Path, float]:
    some: dict[Path, float] = {}
    for path, duration in files.items():
        if sum(some.values()) < seconds:
            some[path] = duration
    return some


def warm_up(folder: Path, files: dict[Path, float]) -> None:
    """Start the workers and import everything in them."""
    prepared_rate(folder, dict(list(files.items())[:200]), "warm-up")


def prepared_rate(folder: Path, files: dict[Path, float], name: str, times: int = 1) -> float:
    lines = [
        {"id": f"{path.stem}-{turn}", "audio": str(path), "text": "שלום עולם זה מבחן של מהירות"}
        for turn in range(times)
        for path in files
    ]
    corpus = prepare(load_recipe(write_recipe(folder, name, lines)), folder / name, overwrite=True)
    kept = corpus.manifest["num_utterances"]
    assert kept == len(lines), f"{kept} of {len(lines)} clips were kept: {corpus.manifest['rejected_by_reason']}"
    rtfx: float = json.loads((corpus.path / "prepare.json").read_text())["rtfx"]
    return rtfx


def write_recipe(folder: Path, name: str, lines: list[dict[str, str]]) -> Path:
    manifest = folder / f"{name}.jsonl"
    manifest.write_text("\n".join(json.dumps(line) for line in lines))
    data = {
        "sources": [{"kind": "jsonl", "path": str(manifest)}],
        "filters": {"refuse_duplicate_audio": False, "min_chars_per_s": 0},
    }
    recipe = folder / f"{name}.yaml"
    recipe.write_text(yaml.safe_dump({"data": data}))
    return recipe


if __name__ == "__main__":
    main()
