"""`caspi synthesize`: a spoken Hebrew corpus from nothing, in the hub's layouts, with everything about it known."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import caspi
from caspi.errors import RequestError
from caspi.synthesis import espeak
from caspi.synthesis.part import truth_file
from caspi.synthesis.plan import CROWD_TRANSCRIBE, RECITAL, UNTRANSCRIBED, Part, plan

NUM_UTTERANCES = 3000  # about 2 hours to train on
SEED = 42

_TRUTH = "words.parquet"
_PART_TIMEOUT_S = 1800  # a part takes some ten seconds; this one hangs

_README = f"""# A synthetic spoken Hebrew corpus

Nobody spoke this: eSpeak NG 1.52 did, sentence by sentence, from a small grammar. It exists to exercise a speech
pipeline from end to end and to teach a toy model. It says nothing about how a model understands people.

| file | holds |
|---|---|
| `{CROWD_TRANSCRIBE}/data/` | short clips, train and test, as in ivrit-ai/crowd-transcribe-v5 |
| `{RECITAL}/data/` | slices of up to 30 s with time tokens, train, as in ivrit-ai/crowd-recital-whisper-training |
| `words.parquet` | the truth, a row per sentence: text, voice, times of every word, and why a bad row is bad |

Neither a sentence nor a voice of the test split occurs in training. About three rows in a hundred are bad on purpose;
their column `bad` in `words.parquet` says how (`{UNTRANSCRIBED}`: heard in a slice, but not written there). Times are
seconds within the audio of the row that `key` and `seek_s` name.

Sentences and recordings are free to use without condition. eSpeak NG and its voices are GPL-3.0-or-later; speech that
they produce is not covered by that licence.
"""


@dataclass(frozen=True, slots=True)
class Synthesis:
    """What `synthesize` wrote."""

    output: Path
    num_utterances: int
    num_bad: int
    """Utterances in rows that are bad on purpose."""

    hours: dict[str, float]
    """Usable speech by split."""

    seconds: float
    """How long it took."""

    @property
    def rtfx(self) -> float:
        """Seconds of speech written per second."""
        return sum(self.hours.values()) * 3600 / self.seconds


def synthesize(
    output: str | Path,
    *,
    num_utterances: int = NUM_UTTERANCES,
    seed: int = SEED,
    on_progress: Callable[[int, int], None] | None = None,
) -> Synthesis:
    """Write a corpus into the folder `output`, the same bytes for the same number and seed.

    Parts are spoken by processes of their own, as many at a time as there are cores; `on_progress(done, total)` is
    called after each. A corpus that an earlier call left in `output` is replaced. `words.parquet` is written last:
    where it is, the corpus is whole.

    Raises:
        RequestError: too few or too many utterances, or `output` holds something else.
        SpeechEngineError: eSpeak NG is missing or failed.
    """
    started = time.monotonic()
    espeak.require()
    parts = plan(num_utterances, seed)
    output = Path(output).expanduser().absolute()
    _clear(output)
    with ThreadPoolExecutor(_num_cores()) as pool:
        running = [pool.submit(_speak_apart, output, num_utterances, seed, number) for number in _longest_first(parts)]
        try:
            for done, finished in enumerate(as_completed(running), start=1):
                finished.result()
                if on_progress:
                    on_progress(done, len(parts))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    truth = pa.concat_tables(pq.read_table(truth_file(output, number)) for number in range(len(parts)))
    shutil.rmtree(output / ".truth")
    (output / "README.md").write_text(_README, encoding="utf-8")
    pq.write_table(truth, output / _TRUTH)
    return _summarize(output, truth, time.monotonic() - started)


def _clear(output: Path) -> None:
    """Remove what an earlier call wrote, whole or in part, and nothing else."""
    ours = (_TRUTH, "README.md", ".truth", CROWD_TRANSCRIBE, RECITAL)
    strangers = sorted(path.name for path in output.iterdir() if path.name not in ours) if output.is_dir() else []
    if strangers:
        raise RequestError(
            f"{output} holds {strangers[0]!r}, which is no part of a synthetic corpus; name another folder"
        )
    # words.parquet goes first: a corpus without it is not whole.
    for name in ours:
        path = output / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)


def _longest_first(parts: list[Part]) -> list[int]:
    """Part numbers, so that the last ones to start are short and all cores end together."""

    def num_sentences(number: int) -> int:
        return len(parts[number].clips) + sum(len(entry.sentences) for entry in parts[number].entries)

    return sorted(range(len(parts)), key=num_sentences, reverse=True)


def _speak_apart(output: Path, num_utterances: int, seed: int, number: int) -> None:
    arguments = [str(argument) for argument in (output, num_utterances, seed, number)]
    source_root = Path(caspi.__file__).parents[1]
    path = os.pathsep.join(filter(None, [str(source_root), os.environ.get("PYTHONPATH")]))
    finished = subprocess.run(
        [sys.executable, "-m", "caspi.synthesis.part", *arguments],
        # One thread each: the parts already fill the cores.
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=_PART_TIMEOUT_S,
        check=False,
    )
    if finished.returncode != 0:
        raise espeak.SpeechEngineError(
            f"part {number} of the corpus ended with exit code {finished.returncode}:\n{finished.stderr.strip()}"
        )


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _summarize(output: Path, truth: pa.Table, seconds: float) -> Synthesis:
    good = truth.filter(pc.is_null(truth["bad"]))
    hours = {
        split: (pc.sum(good.filter(pc.equal(good["split"], split))["duration_s"]).as_py() or 0.0) / 3600
        for split in ("train", "test")
    }
    num_untranscribed = pc.sum(pc.equal(truth["bad"], UNTRANSCRIBED)).as_py() or 0
    return Synthesis(output, truth.num_rows, truth.num_rows - good.num_rows - num_untranscribed, hours, seconds)
