"""The engine `vllm`: paged attention and continuous batching by vLLM, prompts and answers by Caspi.

vLLM's packages and Caspi's do not fit into one environment (vLLM 0.33 wants transformers below 5.21), so vLLM runs in a
process of its own, by the interpreter that `CASPI_VLLM_PYTHON` names. Clips go there through a socket, and tokens come
back.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from caspi import settings
from caspi.errors import EngineError, RequestError
from caspi.inference import parity
from caspi.inference.answer import EXTRA_TOKENS, language_name, max_new_tokens, transcription
from caspi.inference.engine import Clip
from caspi.inference.precision import weight_type
from caspi.inference.repetition import MIN_COPIES_AT_LIMIT, LoopGuard
from caspi.inference.transcription import Finish, Transcription
from caspi.inference.vllm_process import News, VllmProcess
from caspi.model import Prompter, find, load_prompter, num_audio_tokens
from caspi.model.audio_tokens import MIN_SAMPLES
from caspi.recipe.sections import Inference

PARITY_TIMEOUT_S = 120.0
STEP_PATIENCE_S = 0.05  # how long a step waits for tokens before its driver may look around

_ARGUMENTS = {
    "limit_mm_per_prompt": {"audio": 1},
    # Whatever fits into the memory for keys and values, up to what the model was made for.
    "max_model_len": -1,
    # No two recordings begin alike, and what was said shall not stay in memory.
    "enable_prefix_caching": False,
    "mm_processor_cache_gb": 0,
    "disable_log_stats": True,
}


def open_vllm(model: str | Path, *, limits: Inference) -> "VllmEngine":
    """An engine with a model on this machine's device, once vLLM has proved that it computes what transformers does.

    Raises:
        ModelError: the model is not there, or not one that Caspi can use.
        EngineError: vLLM does not start, or its answers differ.
    """
    from caspi.tracking import locate_model  # MLflow is needed for its URIs alone

    environment = settings.read()
    folder = find(locate_model(str(model)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = str(weight_type(limits.precision, device)).removeprefix("torch.")
    arguments = {"model": str(folder), "dtype": dtype, **_ARGUMENTS, **environment.vllm_arguments}
    engine = VllmEngine(VllmProcess(arguments, python=environment.vllm_python), load_prompter(folder), limits)
    try:
        engine.prove(folder, dtype=arguments["dtype"], cache=environment.home / "parity")
    except BaseException:
        engine.close()
        raise
    return engine


@dataclass(slots=True)
class _Row:
    """A clip that is being decoded."""

    clip: Clip
    language: str | None  # the name that is forced
    since: float = field(default_factory=time.perf_counter)
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    guard: LoopGuard = field(default_factory=LoopGuard)

    def __post_init__(self) -> None:
        self.guard.add_rows(1)

    def is_loop_after(self, news: News) -> bool:
        """Take new tokens in. Returns whether the answer has become a loop, which vLLM would go on with."""
        self.ids += news.ids
        self.log_probs += [scores[token] for token, scores in zip(news.ids, news.scores, strict=False)]
        return any([self.guard.see(np.array([token]))[0] for token in news.ids])

    def cut(self, end_ids: Collection[int]) -> Finish:
        """Take the end of turn or a loop away from the end. Returns why the answer ends there."""
        if self.ids and self.ids[-1] in end_ids:
            self.ids.pop()
            return "stop"
        if num_repeated := self.guard.num_repeated(0, min_copies=MIN_COPIES_AT_LIMIT):
            del self.ids[-num_repeated:]
            return "repetition"
        return "length"


class VllmEngine:
    """Clips in, transcriptions out, decoded by the vLLM beside us. An `Engine`.

    `max_batch_s` bounds the audio inside; nothing is padded. Beyond what its memory holds, vLLM lets clips wait.
    """

    def __init__(self, process: VllmProcess, prompter: Prompter, limits: Inference) -> None:
        self._process = process
        self._prompter = prompter
        self._limits = limits
        self._end_ids = [prompter.end_of_turn_id, prompter.pad_id]
        self._inside: dict[int, _Row] = {}
        self._next_number = 0

    @property
    def fill(self) -> float:
        return sum(row.clip.duration_s for row in self._inside.values()) / self._limits.max_batch_s

    def fits(self, clips: Sequence[Clip]) -> bool:
        if not self._inside and len(clips) <= 1:
            return True
        return self.fill + sum(clip.duration_s for clip in clips) / self._limits.max_batch_s <= 1

    def start(self, clips: Sequence[Clip]) -> list[int]:
        """As `Engine.start`.

        Raises:
            RequestError: a language is unknown, or a clip with its answer is longer than vLLM's memory.
            EngineError: vLLM ended. This engine is of no use any more.
        """
        rows = [_Row(clip, language_name(clip.language)) for clip in clips]
        bounds = [self._max_new_tokens(row) for row in rows]
        numbers = list(range(self._next_number, self._next_number + len(clips)))
        self._next_number += len(clips)
        for number, row, bound in zip(numbers, rows, bounds, strict=True):
            self._process.add(
                number,
                prompt_ids=self._prompter.prompt(1, context=row.clip.prompt, language=row.language),
                samples=whole(row.clip.samples),
                max_new_tokens=bound,
                end_ids=self._end_ids,
                num_scores=0 if row.clip.with_log_probs else None,
            )
        self._inside |= zip(numbers, rows, strict=True)
        return numbers

    def step(self) -> list[tuple[int, Transcription]]:
        """As `Engine.step`.

        Raises:
            EngineError: vLLM ended. This engine is of no use any more.
        """
        done = []
        for news in self._process.news(patience_s=STEP_PATIENCE_S if self._inside else 0.0):
            row = self._inside.get(news.number)
            if row is None:  # dropped
                continue
            is_loop = row.is_loop_after(news)
            if is_loop and not news.finish:
                self._process.drop(news.number)
            if is_loop or news.finish:
                del self._inside[news.number]
                done.append((news.number, self._answer(row)))
        return done

    def drop(self, numbers: Collection[int]) -> None:
        for number in [number for number in numbers if number in self._inside]:
            del self._inside[number]
            self._process.drop(number)

    def close(self) -> None:
        """End vLLM. It also ends when nobody has this engine any more."""
        self._process.close()

    def prove(self, folder: Path, *, dtype: str, cache: Path) -> None:
        """Compare an answer to that of transformers with the model in `folder`. Nothing may be inside.

        Raises:
            EngineError: they differ, or none came.
        """
        sound = parity.clip()
        expected = parity.reference(
            folder, self._prompter.prompt(num_audio_tokens(len(sound))), self._end_ids, cache=cache
        )
        self._process.add(
            self._next_number,
            prompt_ids=self._prompter.prompt(1),
            samples=sound,
            max_new_tokens=parity.MAX_NEW_TOKENS,
            end_ids=self._end_ids,
            num_scores=parity.NUM_SCORES,
        )
        self._next_number += 1
        answer = parity.Answer([], [])
        deadline, finish = time.monotonic() + PARITY_TIMEOUT_S, None
        while finish is None:
            if time.monotonic() > deadline:
                raise EngineError(f"vLLM did not answer a clip of {len(sound)} samples within {PARITY_TIMEOUT_S:.0f} s")
            for news in self._process.news(patience_s=STEP_PATIENCE_S):
                answer.ids.extend(news.ids)
                answer.scores.extend(news.scores)
                finish = news.finish
        parity.check(answer, expected, engine="vllm", dtype=dtype)

    def _max_new_tokens(self, row: _Row) -> int:
        num_audio = num_audio_tokens(len(row.clip.samples))
        num_prompt = len(self._prompter.prompt(num_audio, context=row.clip.prompt, language=row.language))
        room = self._process.max_tokens - num_prompt
        if room < EXTRA_TOKENS:
            raise RequestError(
                f"a clip of {row.clip.duration_s:.1f} s is a prompt of {num_prompt} tokens, and vLLM has room for "
                f"{self._process.max_tokens} with the answer; send shorter pieces, or give vLLM more memory"
            )
        return min(room, max_new_tokens(row.clip, self._limits))

    def _answer(self, row: _Row) -> Transcription:
        finish = row.cut(self._end_ids)
        return transcription(
            self._prompter,
            row.clip,
            row.ids,
            language=row.language,
            finish=finish,
            log_probs=row.log_probs[: len(row.ids)] if row.clip.with_log_probs else None,
            latency_s=time.perf_counter() - row.since,
        )


def whole(samples: np.ndarray) -> np.ndarray:
    """Filled with silence to the shortest clip that the model knows, which vLLM leaves undone."""
    return np.pad(samples, (0, max(0, MIN_SAMPLES - len(samples))))
