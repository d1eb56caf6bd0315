"""What the driver does for a hundred million utterances: rows are faked, the code is real.

    python tests/benchmarks/scale.py --utterances 100000000

Every step of deciding over the whole corpus is run and timed: gathering the chunks' ledgers, refusing duplicates,
recordings on two sides, the global order, the cut into shards, the counts, the fingerprint, the work of the shard
tasks. Writing shards is the tasks' work and is not. For the plan of an epoch of as many there is plan.py.
"""

import argparse
import resource
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from caspi.corpus import ledger as ledgers
from caspi.corpus.keys import chunk_keys
from caspi.corpus.ledger import LEDGER_SCHEMA, Ledger
from caspi.corpus.pipeline import shard_item
from caspi.corpus.rows import Chunk
from caspi.recipe.data import Data

_ROWS_PER_CHUNK = 10_000  # larger than real ones, so that faking them costs less than what is measured
_DISTINCT = 1 / 1000  # share of duplicates, and of refusals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=2_000_000)
    args = parser.parse_args()
    clock = Clock(args.utterances)
    num_chunks = -(-args.utterances // _ROWS_PER_CHUNK)
    faked = 0.0

    def chunks() -> Iterator[pa.Table]:
        nonlocal faked
        for number in range(num_chunks):
            began = time.perf_counter()
            table = fake_chunk(number, min(_ROWS_PER_CHUNK, args.utterances - number * _ROWS_PER_CHUNK))
            faked += time.perf_counter() - began
            yield table

    data = Data.model_validate({"sources": [{"kind": "jsonl", "path": "speech.jsonl"}]})
    planned = [Chunk(0, "speech.jsonl", 64, 64 * place) for place in range(args.utterances // 64)]
    with clock(f"name {len(planned):,} chunks by their keys"):
        chunk_keys(planned, ["speech"], data, "")
    del planned

    with clock("gather the ledgers of the chunks"):
        ledger = Ledger.gather(chunks())
        clock.spare(faked)
    with clock("refuse duplicate ids, sounds and pairs"):
        ledgers.refuse_repetitions(ledger, refuse_audio=True)
    with clock("refuse recordings on two sides"):
        ledgers.refuse_two_sided(ledger)
    with clock("order what was kept"):
        order = ledgers.order_kept(ledger)
    with clock("cut into shards of two hours"):
        shards = ledgers.cut_shards(ledger, order, 7200.0)
    with clock("count"):
        counts = ledgers.count(ledger)
    with clock("fingerprint"):
        ledgers.fingerprint(ledger, order)
    paths = np.array([f"/stage/{file}" for file in ledger.files], dtype=object)
    with clock(f"say what {len(shards)} shards are made of"):
        for shard in shards:
            shard_item(ledger, order, shard, paths)
    print(f"kept {counts['num_utterances']:,} utterances, {counts['hours']:,.0f} h, {len(shards):,} shards")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


class Clock:
    """Prints a line for each step."""

    def __init__(self, num_utterances: int) -> None:
        print(f"{num_utterances:,} utterances")
        self._spared = 0.0

    def __call__(self, what: str) -> "Clock":
        self._what, self._spared = what, 0.0
        return self

    def spare(self, seconds: float) -> None:
        """Do not count these seconds."""
        self._spared = seconds

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *raised: object) -> None:
        print(f"  {time.perf_counter() - self._began - self._spared:8.1f} s  {self._what}", flush=True)


def fake_chunk(number: int, num_rows: int) -> pa.Table:
    """A chunk's ledger: 2 to 18 s a row, ten utterances a recording, a thousandth refused and a thousandth repeated."""
    chance = np.random.default_rng(number)
    first = number * _ROWS_PER_CHUNK
    own = np.arange(first, first + num_rows, dtype=np.uint64)
    repeated = chance.random(num_rows) < _DISTINCT
    sound = np.where(repeated, own // np.uint64(2), own)
    refused = chance.random(num_rows) < _DISTINCT
    recording = own // np.uint64(10)
    split = np.where(_mix(recording) % 100 < 5, 1, 0).astype(np.int32)

    def wide(values: np.ndarray, num_words: int) -> pa.Array:
        words = np.stack([_mix(values + np.uint64(7 * place)) for place in range(num_words)], axis=1)
        return pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(8 * num_words), num_rows, [None, pa.py_buffer(np.ascontiguousarray(words))]
        )

    def word(codes: np.ndarray, words: list[str], mask: np.ndarray | None = None) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32), mask=mask), pa.array(words))

    zeros, nothing = np.zeros(num_rows, np.int32), pa.nulls(num_rows)
    columns = {
        "row": np.arange(num_rows, dtype=np.int32),
        "segment": zeros,
        "utterance_id": nothing,  # words are not gathered
        "recording_id": nothing,
        "source": word(zeros, [f"source-{number % 7}"]),
        "start_s": nothing,
        "end_s": nothing,
        "reason": word(zeros, ["noisy"], mask=~refused),
        "detail": nothing,
        "text": nothing,
        "example": nothing,
        "split": word(split, ["train", "validation"], mask=refused),
        "num_samples": chance.integers(2 * 16000, 18 * 16000, num_rows, dtype=np.int32),
        "shuffle_key": (_mix(own) >> np.uint64(1)).astype(np.int64),
        "id_digest": wide(own, 2),
        "recording_digest": wide(recording, 1),
        "text_digest": wide(own + np.uint64(1), 2),
        "audio_digest": wide(sound + np.uint64(2), 2),
        "file": word(zeros, [f"{number % 256:02x}/{number:032x}-000.arrow"]),
        "file_row": np.arange(num_rows, dtype=np.int32),
        "judge_wer": pa.nulls(num_rows, pa.float32()),
    }
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in LEDGER_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=LEDGER_SCHEMA)


def _mix(values: np.ndarray) -> np.ndarray:
    """Splitmix64: different numbers give different, random-looking ones."""
    mixed = (values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


if __name__ == "__main__":
    main()
