"""How fast `evaluate` is, against the bare model in a loop with the same batches, and against one clip at a time.

The bare model runs twice: in one process with a thread for each core, and in as many processes of one thread as
`evaluate` has actors. The first is what a script would do; the second has what `evaluate` has.

    python tests/benchmarks/evaluate.py --model runs/demo/run/model --corpus runs/demo/corpus --split train

Rates are seconds of audio a second of wall time, of one run on one machine. Starting Ray and loading the model are not
counted: they take the same for a minute of audio and for a day.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from caspi import audio, ray_session
from caspi.corpus import Corpus
from caspi.evaluation import evaluate
from caspi.evaluation.transcribing import plan_chunks
from caspi.inference.transcriber import Transcriber

# How much of the material is transcribed clip by clip.
_ALONE_S = 60.0

loaded: tuple[Transcriber, Sequence[Sequence[np.ndarray]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="only so many utterances")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    os.environ["CASPI_NUM_CPUS"] = str(args.cores)
    torch.set_num_threads(args.cores)
    corpus = Corpus.open(args.corpus)
    chunks = read_chunks(corpus, corpus.index(args.split).slice(0, args.limit))
    transcriber = Transcriber.load(args.model)
    alone = some_clips(chunks)
    bare, many, one_by_one, whole = [], [], [], []
    with (
        ray_session.connect(),
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(args.cores, get_context("spawn"), load, (args.model, chunks)) as processes,
    ):
        rate(transcriber, [alone])  # the first steps take longer
        rate_of_many(processes, chunks)
        for number in range(args.repeats):  # by turns, so that all meet the same noise
            bare.append(rate(transcriber, chunks))
            many.append(rate_of_many(processes, chunks))
            one_by_one.append(rate(transcriber, [[clip] for clip in alone]))
            metrics = evaluate(args.model, corpus, output=f"{folder}/{number}", split=args.split, limit=args.limit)
            whole.append(metrics["rtfx"])
            print(f"  turn {number}: {bare[-1]:.0f}, {many[-1]:.0f}, {one_by_one[-1]:.0f}, {whole[-1]:.0f}", flush=True)
    print(f"{sum(map(len, chunks))} clips, {seconds_of(chunks):.0f} s, WER {metrics['wer']:.1%}")
    print(f"`caspi evaluate` on {metrics['transcribed']['on']}")
    show(f"bare model, {args.cores} threads", bare)
    show(f"bare model, {args.cores} processes", many)
    show("one clip at a time", one_by_one)
    show("caspi evaluate", whole)
    compare("evaluate / bare, threads", whole, bare, "0.9 wanted")
    compare("evaluate / bare, processes", whole, many, "0.9 wanted")
    compare("evaluate / one clip at a time", whole, one_by_one, "4 wanted")


def read_chunks(corpus: Corpus, index: pa.Table) -> list[list[np.ndarray]]:
    """The decoded clips of each chunk, as evaluation cuts them."""
    return [
        [
            audio.decode(utterance.audio, source=utterance.utterance_id).samples
            for utterance in corpus.read_rows(chunk.shard, range(chunk.first_row, chunk.first_row + chunk.num_rows))
        ]
        for chunk in plan_chunks(index)
    ]


def some_clips(chunks: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    clips: list[np.ndarray] = []
    for clip in (clip for chunk in chunks for clip in chunk):
        if sum(map(len, clips)) < _ALONE_S * audio.SAMPLE_RATE:
            clips.append(clip)
    return clips


def rate(transcriber: Transcriber, chunks: Sequence[Sequence[np.ndarray]]) -> float:
    began = time.perf_counter()
    for clips in chunks:
        transcriber.transcribe_batch(clips, languages=["he"] * len(clips))
    return seconds_of(chunks) / (time.perf_counter() - began)


def rate_of_many(processes: ProcessPoolExecutor, chunks: Sequence[Sequence[np.ndarray]]) -> float:
    """Each process takes the next chunk, as an actor does."""
    began = time.perf_counter()
    list(processes.map(transcribe_chunk, range(len(chunks))))
    return seconds_of(chunks) / (time.perf_counter() - began)


def load(model: str, chunks: Sequence[Sequence[np.ndarray]]) -> None:
    """In each of the processes."""
    global loaded
    torch.set_num_threads(1)
    loaded = Transcriber.load(model), chunks


def transcribe_chunk(number: int) -> None:
    transcriber, chunks = loaded
    transcriber.transcribe_batch(chunks[number], languages=["he"] * len(chunks[number]))


def seconds_of(chunks: Sequence[Sequence[np.ndarray]]) -> float:
    return sum(len(clip) for clips in chunks for clip in clips) / audio.SAMPLE_RATE


def show(name: str, rates: Sequence[float]) -> None:
    each = ", ".join(f"{one:.0f}" for one in rates)
    print(f"  {name:<30} {statistics.median(rates):6.0f} x real time (of {each})")


def compare(name: str, ours: Sequence[float], theirs: Sequence[float], wanted: str) -> None:
    ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    print(f"  {name:<30} {ratio:6.2f} ({wanted})")


if __name__ == "__main__":
    main()
