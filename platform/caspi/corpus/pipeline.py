"""Sources to corpus, on a Ray cluster: prepare chunks into a stage, decide over the whole, write shards, commit.

Everything that took time lies in the stage under a key that says what it is. So a run that was killed anywhere goes on
when the same command is given again, and ends in the same bytes.
"""

import contextlib
import json
import logging
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from caspi import ray_session
from caspi.audio import SAMPLE_RATE
from caspi.corpus import commit, examples, tasks
from caspi.corpus import ledger as ledgers
from caspi.corpus import shards as files
from caspi.corpus.chunks import HeldOutFiles, Item, prepare_chunk, recognise_chunk, status, task_memory
from caspi.corpus.commit import Work
from caspi.corpus.format import SCHEMA_VERSION, Corpus
from caspi.corpus.ledger import Ledger, Shard
from caspi.corpus.planning import Plan, make_plan
from caspi.corpus.report import write_report
from caspi.corpus.rows import Chunk
from caspi.corpus.staging import Stage, read_arrow
from caspi.corpus.statistics import Statistics
from caspi.corpus.updating import adopt, forget
from caspi.errors import CorpusError, RequestError
from caspi.recipe.sections import Recipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a preparation is."""

    stage: str  # what is being done: "evaluation sets", "rows", "meaning", "shards"
    num_rows: int  # input rows in all
    num_rows_done: int = 0
    num_rows_reused: int = 0  # of those, done by an earlier run
    num_rejected: int = 0
    hours: float = 0.0  # of what was kept so far
    hours_reused: float = 0.0
    elapsed_s: float = 0.0  # since the first row was read
    num_shards: int = 0
    num_shards_done: int = 0


OnProgress = Callable[[Progress], None]


def prepare(
    recipe: Recipe,
    output: str | Path,
    *,
    on_progress: OnProgress | None = None,
    overwrite: bool = False,
    update: bool = False,
) -> Corpus:
    """Prepare `recipe.data` into the folder `output`, which on a cluster all nodes must share.

    The folder appears when it is complete: work goes on in `OUTPUT.partial`. A run that was interrupted goes on there
    when it is called again. The same recipe over the same data gives the same bytes, on any number of machines.

    Args:
        on_progress: called as chunks and shards are done.
        overwrite: replace a corpus that is there.
        update: bring a corpus that is there up to date: only what is new in the recipe or the data is prepared.

    Raises:
        SourceError: a source is not there or not what its `kind` says.
        CorpusError: `output` already holds something, another preparation is at work, or not one utterance was kept.
        StorageError: the disk is full; what was done is kept.
    """
    output = Path(output).expanduser().absolute()
    plan, work = make_plan(recipe.data), Work(output)
    if commit.is_committed(work, plan.key):
        commit.tidy_up(work)
        return Corpus.open(output)
    commit.check_output(output, overwrite=overwrite, update=update)
    with commit.locked(work), _kept_unless_empty(work), ray_session.connect():
        commit.begin(work, plan.key)
        if not commit.is_complete(work):
            _Preparation(plan, work, recipe, on_progress or (lambda progress: None)).run(adopted=update)
        commit.commit(work)
    return Corpus.open(output)


@contextlib.contextmanager
def _kept_unless_empty(work: Work) -> Iterator[None]:
    """Keep what a run that failed had done, for the next; a request that failed at once leaves nothing behind."""
    try:
        yield
    except OSError as error:
        if tasks.is_full(error):
            raise tasks.full_disk(error) from error
        raise
    except RequestError:
        if not any(work.parts.glob("*/*.arrow")):
            commit.tidy_up(work)
        raise


class _Preparation:
    """One run: a plan, a stage, and how far it is."""

    def __init__(self, plan: Plan, work: Work, recipe: Recipe, on_progress: OnProgress) -> None:
        self._plan, self._work, self._recipe = plan, work, recipe
        self._data = plan.data
        self._stage = Stage(work.parts)
        self._on_progress = on_progress
        self._progress = Progress("rows", plan.num_rows)
        self._started = time.perf_counter()

    def run(self, *, adopted: bool) -> None:
        """All of it, up to a complete corpus in the work folder."""
        forget(self._work.output, self._stage)
        if adopted:
            adopt(self._work.output, self._plan.keys, self._stage)
        held_out = self._recognise_held_out()
        self._prepare_chunks(held_out)
        if self._data.meaning is not None:
            self._judge_meaning()
        ledger = self._decide()
        order = ledgers.order_kept(ledger)
        shards = ledgers.cut_shards(ledger, order, self._data.shards.max_duration_s)
        statistics = self._write_shards(ledger, order, shards)
        self._write_rest(ledger, order, shards, statistics)

    # --- chunks

    def _recognise_held_out(self) -> HeldOutFiles | None:
        """The ids and sounds of the evaluation sets, before anything that might be one of theirs."""
        plan, sets = self._plan.held_out, self._data.evaluation_sets
        if plan is None or sets is None:
            return None
        todo = _undone(plan, self._stage.held_out)
        self._report(stage="evaluation sets", num_rows=plan.num_rows, num_rows_done=0)
        for table in tasks.run(recognise_chunk, todo, plan.data, self._work.parts, memory_bytes=task_memory(plan.data)):
            self._report(num_rows_done=self._progress.num_rows_done + table["num_rows"][0].as_py())
        self._report(stage="rows", num_rows=self._plan.num_rows, num_rows_done=0)
        return HeldOutFiles(tuple(self._stage.held_out(key) for key in plan.keys), sets)

    def _prepare_chunks(self, held_out: HeldOutFiles | None) -> None:
        todo = _undone(self._plan, self._stage.ledger)
        waiting = {item.key for item in todo}
        for chunk, key in self._pairs():
            if key not in waiting:
                self._count(status(read_arrow(self._stage.ledger(key)), chunk.num_rows), is_reused=True)
        arguments = (self._data, self._work.parts, held_out)
        for table in tasks.run(prepare_chunk, todo, *arguments, memory_bytes=task_memory(self._data)):
            self._count(table)
        missing = _undone(self._plan, self._stage.ledger)
        if missing:
            raise CorpusError(
                f"{self._work.parts}: {len(missing)} of {len(self._plan.keys)} chunks that other nodes prepared are "
                "not here; on a cluster the output must lie on storage that all nodes share"
            )

    def _pairs(self) -> Iterator[tuple[Chunk, str]]:
        return zip(self._plan.chunks, self._plan.keys, strict=True)

    def _count(self, table: pa.Table, *, is_reused: bool = False) -> None:
        now = self._progress
        num_rows, hours = pc.sum(table["num_rows"]).as_py(), pc.sum(table["num_samples"]).as_py() / SAMPLE_RATE / 3600
        self._report(
            num_rows_done=now.num_rows_done + num_rows,
            num_rows_reused=now.num_rows_reused + is_reused * num_rows,
            num_rejected=now.num_rejected + pc.sum(table["num_rejected"]).as_py(),
            hours=now.hours + hours,
            hours_reused=now.hours_reused + is_reused * hours,
        )

    def _judge_meaning(self) -> None:
        from caspi.corpus.meaning import judge_chunks  # brings the model's libraries

        todo = [item.key for item in _undone(self._plan, self._stage.judged)]
        waiting = set(todo)
        reused = self._plan.num_rows - sum(chunk.num_rows for chunk, key in self._pairs() if key in waiting)
        self._report(stage="meaning", num_rows_done=reused, num_rows_reused=reused, num_rejected=0)
        for table in judge_chunks(todo, self._recipe, self._work.parts):
            self._report(
                num_rows_done=self._progress.num_rows_done + table["num_rows"][0].as_py(),
                num_rejected=self._progress.num_rejected + table["num_rejected"][0].as_py(),
            )

    # --- the whole

    def _ledger_of(self, chunk: int) -> pa.Table:
        path = self._stage.ledger if self._data.meaning is None else self._stage.judged
        return read_arrow(path(self._plan.keys[chunk]))

    def _decide(self) -> Ledger:
        """The ledger of all chunks, with what only the whole can tell."""
        ledger = Ledger.gather(self._ledger_of(chunk) for chunk in range(len(self._plan.keys)))
        ledgers.refuse_repetitions(ledger, refuse_audio=self._data.filters.refuse_duplicate_audio)
        ledgers.refuse_two_sided(ledger)
        if not ledger.is_kept.any():
            message = self._describe_empty(ledger)
            commit.tidy_up(self._work)
            raise CorpusError(message)
        return ledger

    def _write_shards(self, ledger: Ledger, order: np.ndarray, shards: list[Shard]) -> Statistics:
        """One task for each shard."""
        self._report(stage="shards", num_shards=len(shards))
        paths = np.array([self._stage.path / file for file in ledger.files], dtype=object)
        items = [shard_item(ledger, order, shard, paths) for shard in shards]
        found = []
        for table in tasks.run(_ensure_shard, items, self._work.corpus, memory_bytes=files.TASK_BYTES):
            found += [pickle.loads(statistics) for statistics in table["statistics"].to_pylist()]
            self._report(num_shards_done=self._progress.num_shards_done + len(table))
        assert len(found) == len(shards), f"{len(shards)} shards were planned, {len(found)} were written"
        return Statistics.merge(found)

    def _write_rest(self, ledger: Ledger, order: np.ndarray, shards: list[Shard], statistics: Statistics) -> None:
        """Everything beside the shards; the manifest last, which says that the corpus is complete."""
        corpus = self._work.corpus
        files.write_index(corpus, shards)
        files.write_rejected(corpus / "rejected.parquet", ledger, self._ledger_of)
        chosen = examples.choose(ledger, self._ledger_of, self._stage)
        placement, shown = files.Placement.of(order, shards, len(ledger)), {(each.chunk, each.entry) for each in chosen}
        files.write_ledger(corpus / "ledger.parquet", ledger, self._plan.keys, self._ledger_of, placement, shown)
        counts = ledgers.count(ledger)
        for number, name in enumerate(self._plan.names):
            if name in counts["sources"]:
                counts["sources"][name]["language"] = self._data.for_source(number).language
        assert counts["num_recordings"] == self._plan.num_rows, (
            f"{self._plan.num_rows} rows went in, {counts['num_recordings']} came out"
        )
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": ledgers.fingerprint(ledger, order),
            "caspi_version": version("caspi"),
            "language": self._data.language,
            **counts,
            "statistics": statistics.to_json(),
        }
        prepared_s = time.perf_counter() - self._started
        write_report(corpus, manifest, [each.example for each in chosen])
        self._write_speed(counts["hours"], prepared_s)
        commit.write_text(corpus / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")

    def _write_speed(self, hours: float, seconds: float) -> None:
        """How long it took, beside the corpus proper: it is no part of what two runs must agree on."""
        prepared = hours - self._progress.hours_reused
        speed = {
            "seconds": round(seconds, 3),  # from the first row to the last shard and its index
            "report_seconds": round(time.perf_counter() - self._started - seconds, 3),
            "hours": hours,
            "hours_reused": round(self._progress.hours_reused, 6),
            "rtfx": round(max(prepared, 0.0) * 3600 / seconds, 1),
        }
        commit.write_text(self._work.corpus / "prepare.json", json.dumps(speed, indent=2) + "\n")

    def _describe_empty(self, ledger: Ledger) -> str:
        counts = ledgers.count(ledger)
        reasons = ", ".join(f"{reason} {number}" for reason, number in counts["rejected_by_reason"].items())
        first = self._ledger_of(0).slice(0, 1).to_pylist()[0]
        return (
            f"not one utterance was kept of {counts['num_recordings']} recordings: {reasons}. "
            f"The first: {first['recording_id']}: {first['detail']}"
        )

    def _report(self, **changes: Any) -> None:
        elapsed_s = time.perf_counter() - self._started
        self._progress = progress = replace(self._progress, elapsed_s=elapsed_s, **changes)
        logger.info("%s", progress)
        self._on_progress(progress)


def _undone(plan: Plan, result: Callable[[str], Path]) -> list[Item]:
    """Chunks whose result is not there, large ones first, so that all cores come to their end together. Equal keys are
    equal work, done once."""
    undone = {
        key: Item(chunk, key, plan.names[chunk.source])
        for chunk, key in zip(plan.chunks, plan.keys, strict=True)
        if not result(key).exists()
    }
    return sorted(undone.values(), key=lambda item: -item.chunk.num_rows)


@dataclass(frozen=True, slots=True)
class ShardItem:
    """What a shard's task needs: where its utterances lie, in their order."""

    path: str
    files: list[Path]
    places: np.ndarray  # which of `files`
    rows: np.ndarray  # and which row of it
    judge_wers: np.ndarray


def shard_item(ledger: Ledger, order: np.ndarray, shard: Shard, paths: np.ndarray) -> ShardItem:
    """The work of a shard's task; `paths` are those of the ledger's files."""
    wanted = order[shard.start : shard.stop]
    used, places = np.unique(ledger["file"][wanted], return_inverse=True)
    return ShardItem(
        shard.path, list(paths[used]), places.astype(np.int32), ledger["file_row"][wanted], ledger["judge_wer"][wanted]
    )


def _ensure_shard(item: ShardItem, corpus: Path) -> Iterator[pa.Table]:
    """Write a shard, unless an earlier run did, and count what is in it."""
    path = corpus / item.path
    if files.is_whole(path, len(item.rows)):
        table = pq.read_table(path, columns=files.LIGHT_COLUMNS)
    else:
        rows: Sequence[tuple[int, int]] = list(zip(item.places.tolist(), item.rows.tolist(), strict=True))
        table = files.write_shard(path, item.files, rows, item.judge_wers)
    yield pa.table({"statistics": [pickle.dumps(Statistics.of(table))]})
