"""Sources to corpus, with Ray Data: read, decode, cut, normalize, judge and encode; then shuffle and write shards."""

import dataclasses
import json
import logging
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from caspi import ray_session
from caspi.corpus import ledger as ledgers
from caspi.corpus.format import SCHEMA_VERSION, Corpus
from caspi.corpus.rows import Chunk
from caspi.corpus.sources import plan_chunks
from caspi.corpus.staging import prepare_chunk, write_shard
from caspi.errors import CaspiError, CorpusError
from caspi.recipe.data import Data
from caspi.recipe.sections import Recipe

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far a preparation is."""

    num_rows: int  # input rows in all
    num_rows_done: int
    num_rejected: int
    hours: float  # of what was kept so far
    elapsed_s: float  # since the first row was read


def prepare(
    recipe: Recipe,
    output: str | Path,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    overwrite: bool = False,
) -> Corpus:
    """Prepare `recipe.data` into the folder `output`, which on a cluster all nodes must share.

    The folder appears when it is complete: work goes on in `OUTPUT.partial`. The same recipe over the same data gives
    the same bytes, on any number of machines.

    Raises:
        SourceError: a source is not there or not what its `kind` says.
        CorpusError: `output` already holds something, or not one utterance was kept.
    """
    output = Path(output).expanduser().absolute()
    _check_output(output, overwrite)
    chunks = plan_chunks(recipe.data)
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        (partial / "parts").mkdir(parents=True)
        with ray_session.connect():
            started = time.perf_counter()
            report = _reporter(sum(chunk.num_rows for chunk in chunks), started, on_progress)
            _write_corpus(chunks, recipe, partial, report)
            seconds = time.perf_counter() - started
        shutil.rmtree(partial / "parts")
        _commit(partial, output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return _finish(output, seconds)


def _write_corpus(chunks: list[Chunk], recipe: Recipe, partial: Path, report: Callable[[pa.Table], None]) -> None:
    """Everything of the corpus, into `partial`."""
    tables = []
    for table in _prepare_chunks(chunks, recipe.data, partial / "parts"):
        tables.append(table)
        report(table)
    ledger = ledgers.refuse_duplicates(pa.concat_tables(tables))
    kept = ledgers.assign_shards(ledgers.order_kept(ledger), recipe.data.shards.max_duration_s)
    counts = ledgers.count(ledger, kept)
    num_rows = sum(chunk.num_rows for chunk in chunks)
    assert counts["num_recordings"] == num_rows, f"{num_rows} rows went in, {counts['num_recordings']} came out"
    if not len(kept):
        raise CorpusError(_describe_empty(ledger, counts))
    _write_shards(kept, partial)
    pq.write_table(ledgers.length_index(kept), partial / "utterances.parquet", compression="zstd")
    pq.write_table(ledgers.rejected_rows(ledger), partial / "rejected.parquet", compression="zstd")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": ledgers.fingerprint(kept),
        "caspi_version": _version(),
        "language": recipe.data.language,
        **counts,
    }
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _prepare_chunks(chunks: list[Chunk], data: Data, stage: Path) -> Iterator[pa.Table]:
    """Ledger rows as tasks finish, in any order. One task reads, decodes and encodes one chunk."""
    yield from _map(_prepare_chunk, list(enumerate(chunks)), data, stage)


def _prepare_chunk(item: tuple[int, Chunk], data: Data, stage: Path) -> Iterator[pa.Table]:
    number, chunk = item
    yield from prepare_chunk(number, chunk, data, stage)


def _write_shards(kept: pa.Table, partial: Path) -> None:
    """One task for each shard."""
    shards = kept["shard"].combine_chunks().dictionary_encode()
    parts = kept["part"].combine_chunks().dictionary_encode()
    part_names = np.array(parts.dictionary.to_pylist())
    _check_shared(partial / "parts", part_names)
    # Shards follow one another in `kept`, so each is a range of it.
    bounds = np.searchsorted(shards.indices.to_numpy(), np.arange(len(shards.dictionary) + 1))
    part_rows = kept["part_row"].to_numpy()
    work = []
    for number, shard in enumerate(shards.dictionary.to_pylist()):
        rows = slice(bounds[number], bounds[number + 1])
        used, places = np.unique(parts.indices.to_numpy()[rows], return_inverse=True)
        work.append((shard, part_names[used].tolist(), places.tolist(), part_rows[rows].tolist()))
    num_written = sum(len(table) for table in _map(_write_shard, work, partial))
    assert num_written == len(work), f"{len(work)} shards were planned, {num_written} were written"


def _write_shard(item: tuple[str, list[str], list[int], list[int]], partial: Path) -> Iterator[pa.Table]:
    shard, parts, places, rows = item
    write_shard(partial / shard, [partial / "parts" / part for part in parts], list(zip(places, rows, strict=True)))
    yield pa.table({"shard": [shard]})


def _map(function: Callable[..., Iterator[pa.Table]], work: Sequence[Any], *arguments: Any) -> Iterator[pa.Table]:
    """Run `function(item, *arguments)` with Ray Data, an item a task, a core a task; yields its tables as they come.

    Raises:
        CaspiError: as a task raised it. Anything else that a task raises arrives as Ray's error with its traceback.
    """
    import ray

    items = pa.table({"item": pa.array([pickle.dumps(item) for item in work], pa.binary())})
    dataset = ray.data.from_arrow([items.slice(place, 1) for place in range(len(items))]).map_batches(
        _run_items,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
        fn_kwargs={"function": function, "arguments": arguments},
    )
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except ray.exceptions.RayTaskError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, CaspiError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is None:
            raise
        raise cause from error


def _run_items(
    batch: pa.Table, function: Callable[..., Iterator[pa.Table]], arguments: tuple[Any, ...]
) -> Iterator[pa.Table]:
    for item in batch["item"].to_pylist():
        yield from function(pickle.loads(item), *arguments)


def _reporter(
    num_rows: int, started: float, on_progress: Callable[[Progress], None] | None
) -> Callable[[pa.Table], None]:
    """A function that takes ledger rows as they come and says how far we are."""
    done = rejected = 0
    audio_s = 0.0

    def report(table: pa.Table) -> None:
        nonlocal done, rejected, audio_s
        done += pc.count_distinct(table["row"]).as_py()
        rejected += len(table) - table["reason"].null_count
        audio_s += pc.sum(table["duration_s"]).as_py() or 0.0
        logger.info("prepared rows=%d of=%d hours=%.2f rejected=%d", done, num_rows, audio_s / 3600, rejected)
        if on_progress:
            on_progress(Progress(num_rows, done, rejected, audio_s / 3600, time.perf_counter() - started))

    return report


def _check_output(output: Path, overwrite: bool) -> None:
    """Never write over what somebody may still need."""
    if (output / "manifest.json").exists() and not overwrite:
        raise CorpusError(
            f"{output}: already holds a corpus; choose another folder, or replace this one with --overwrite"
        )
    is_corpus = (output / "manifest.json").exists()
    if output.exists() and not is_corpus and (not output.is_dir() or any(output.iterdir())):
        raise CorpusError(f"{output}: already there and not a corpus; choose another folder")


def _check_shared(stage: Path, parts: np.ndarray) -> None:
    missing = [part for part in parts if not (stage / part).exists()]
    if missing:
        raise CorpusError(
            f"{stage}: {len(missing)} of {len(parts)} parts that other nodes wrote are not here; "
            "on a cluster the output must lie on storage that all nodes share"
        )


def _commit(partial: Path, output: Path) -> None:
    """Let the finished corpus appear at once."""
    if output.exists():
        old = output.with_name(f"{output.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        output.rename(old)
        partial.rename(output)
        shutil.rmtree(old)
    else:
        partial.rename(output)


def _finish(output: Path, seconds: float) -> Corpus:
    """Write down how long it took, beside the corpus proper: it is no part of what two runs must agree on."""
    corpus = Corpus.open(output)
    hours = corpus.manifest["hours"]
    speed = {"seconds": round(seconds, 3), "hours": hours, "rtfx": round(hours * 3600 / seconds, 1)}
    (output / "prepare.json").write_text(json.dumps(speed, indent=2) + "\n", encoding="utf-8")
    return corpus


def _describe_empty(ledger: pa.Table, counts: dict[str, Any]) -> str:
    reasons = ", ".join(f"{reason} {number}" for reason, number in counts["rejected_by_reason"].items())
    first = f"{ledger['recording_id'][0]}: {ledger['detail'][0]}"
    return f"not one utterance was kept of {counts['num_recordings']} recordings: {reasons}. The first: {first}"


def _version() -> str:
    try:
        return version("caspi")
    except PackageNotFoundError:
        return "unknown"
