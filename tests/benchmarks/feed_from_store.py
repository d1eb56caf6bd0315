"""Feeding from an object store beside a folder, the model replaced by a timer.

    python -m tests.benchmarks.feed_from_store

Two hours of noise in 32 shards, which are four windows, and an S3 server in a process of its own on this machine. From
the store the first epoch fetches what it reads, and the second finds it here.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import torch

from caspi.corpus import Corpus
from caspi.model import Prompter, build_toy
from caspi.recipe.augmentation import Augmentation
from caspi.recipe.sections import Context, Toy
from caspi.training.context import ContextMaker
from caspi.training.feed import BatchMaker, Planned, ahead
from caspi.training.fetching import ShardFetcher
from caspi.training.lengths import LengthIndex
from caspi.training.plan import plan_epoch
from caspi.training.reading import ShardReader
from tests.corpus import spoken
from tests.object_store import upload

_NUM_EPOCHS = 2
_STEP_AUDIO_S = 100.0


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="caspi-store-") as name:
        folder = Path(name)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL
        )
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "CASPI_HOME": str(folder / "home"),
        }  # fmt: skip
        try:
            run(folder)
        finally:
            server.terminate()
            server.wait()


def run(folder: Path) -> None:
    corpus = spoken.write(folder / "corpus", num_shards=32, rows_per_shard=40, duration_s=5.5)
    client = _client()
    client.create_bucket(Bucket="speech")
    upload(client, corpus.path, below="corpus/")
    print("from     epoch  utterances/s  longest wait, s  waited after the first step, s")
    # The folder once more behind the store: what differs between the two is the machine.
    for name, opened in (("folder", corpus), ("store", Corpus.open("s3://speech/corpus")), ("folder", corpus)):
        epochs(name, opened, folder / f"lengths-{name}")


def _client() -> Any:
    """Of a server that has just been started."""
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for _ in range(100):
        try:
            client.list_buckets()
            return client
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the S3 server does not answer")


def epochs(name: str, corpus: Corpus, lengths: Path) -> None:
    _, processor = build_toy(Toy(), texts=["שלום עולם"] * 20, language="Hebrew", seed=0)
    prompter = Prompter(processor.tokenizer)
    index = LengthIndex.build(corpus, prompter, lengths)
    plans = [plan_epoch(index, step_audio_s=_STEP_AUDIO_S, seed=0, epoch=epoch) for epoch in range(_NUM_EPOCHS)]
    maker = BatchMaker(
        reader=ShardReader.of_index(corpus, index, max_open_shards=plans[0].max_open_shards),
        prompter=prompter,
        augmentation=Augmentation(),
        context=ContextMaker(Context(), prompter),
        seed=0,
        collation="packed",
    )

    def planned() -> Iterator[Planned]:
        with ShardFetcher(corpus) as fetcher:
            for epoch, plan in enumerate(plans):
                for step in range(plan.num_steps):
                    fetcher.follow(plans, epoch, step)
                    groups = plan.micro_batches(step, rank=0, world_size=1, max_micro_batch_s=_STEP_AUDIO_S)
                    yield Planned(epoch, groups, _STEP_AUDIO_S)

    shares = ahead(lambda: maker.shares(planned(), num_threads=1))
    for epoch, plan in enumerate(plans):
        num_utterances, waits, started = 0, [], time.perf_counter()
        for _ in range(plan.num_steps):
            asked = time.perf_counter()
            num_utterances += len(next(shares).items)
            waits.append(time.perf_counter() - asked)
        rate = num_utterances / (time.perf_counter() - started)
        print(f"{name:8} {epoch:5}  {rate:12.0f}  {max(waits):15.2f}  {sum(waits[1:]):30.2f}", flush=True)
    shares.close()


if __name__ == "__main__":
    main()
