"""vLLM beside us: its process, and what is said through the socket."""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from caspi import audio
from caspi.errors import EngineError

logger = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 900.0  # of a GPU that compiles; a CPU takes a minute
END_TIMEOUT_S = 10.0  # from closing its socket to its exit code

_WORKER = Path(__file__).with_name("vllm_worker.py")


@dataclass(frozen=True, slots=True)
class News:
    """What became of a clip in one step."""

    number: int
    ids: list[int]  # new ones
    scores: list[dict[int, float]]  # of each: log probabilities of it and the likeliest tokens; empty if not asked for
    finish: str | None  # vLLM's `stop`, `length`, ... None: it goes on


class VllmProcess:
    """One vLLM engine in a process of its own. To be used from one thread at a time."""

    def __init__(self, arguments: Mapping[str, Any], *, python: Path, timeout_s: float = OPEN_TIMEOUT_S) -> None:
        """Start it, and wait until it has the model.

        Args:
            arguments: of vLLM's `EngineArgs`.
            python: the interpreter of vLLM's environment.

        Raises:
            EngineError: there is no such interpreter, no vLLM in it, or vLLM does not take the model.
        """
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        with theirs:
            self._process = _spawn(python, theirs.fileno())
        # Also when nobody remembers this object, or the interpreter ends.
        self.close = weakref.finalize(self, _end, self._connection, self._process)
        """End it, and whatever it started."""
        try:
            told = self._open(arguments, timeout_s)
        except BaseException:
            self.close()
            raise
        self.max_tokens: int = told.pop("max_model_len")
        """Of prompt and answer together."""
        logger.info("vLLM is ready %s", " ".join(f"{name}={value}" for name, value in told.items()))

    def _open(self, arguments: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        self._send(("open", dict(arguments)))
        if not self._connection.poll(timeout_s):
            raise EngineError(f"vLLM was not ready after {timeout_s:.0f} s; what it said last is in the log above")
        told: dict[str, Any] = self._receive()[1]
        return told

    def add(
        self,
        number: int,
        *,
        prompt_ids: Sequence[int],
        samples: np.ndarray,
        max_new_tokens: int,
        end_ids: Sequence[int],
        num_scores: int | None = None,
    ) -> None:
        """Have a clip decoded greedily.

        Args:
            prompt_ids: with one placeholder for the whole audio, which vLLM repeats itself.
            samples: (num_samples,) float32, 16 kHz.
            num_scores: tell log probabilities of the token that is taken and so many of the likeliest. None: of none.
        """
        sampling = {"max_tokens": max_new_tokens, "stop_token_ids": list(end_ids), "logprobs": num_scores}
        sound = np.ascontiguousarray(samples, np.float32).tobytes()
        self._send(("add", number, list(prompt_ids), sound, audio.SAMPLE_RATE, sampling))

    def drop(self, number: int) -> None:
        """Forget a clip. What was on its way may still come as news."""
        self._send(("drop", number))

    def news(self, *, patience_s: float) -> Iterator[News]:
        """What has happened. Waits for something to happen, but no longer than `patience_s`.

        Raises:
            EngineError: vLLM ended.
        """
        try:
            while self._connection.poll(patience_s):
                patience_s = 0.0
                match self._receive():
                    case ("step", steps):
                        yield from (News(number, ids, scores or [], finish) for number, ids, scores, finish in steps)
                    case ("refused", number, why):
                        raise RuntimeError(f"vLLM refused clip {number}: {why}")
        except ConnectionError as error:
            raise self._ended() from error

    def _send(self, message: tuple[Any, ...]) -> None:
        try:
            self._connection.send(message)
        except ConnectionError as error:
            raise self._ended() from error

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise self._ended() from error

    def _ended(self) -> EngineError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT_S)
        return EngineError(
            f"vLLM's process ended with exit code {self._process.returncode}; what it said last is in the log above"
        )


def _spawn(python: Path, descriptor: int) -> subprocess.Popen[bytes]:
    """The worker in vLLM's environment, without ours, in a group of its own."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        return subprocess.Popen(
            [python, "-P", _WORKER, str(descriptor)],
            pass_fds=[descriptor],
            env=env,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        raise EngineError(
            f"{python}: cannot be run: {error.strerror}; CASPI_VLLM_PYTHON names the interpreter of vLLM's environment"
        ) from error


def _end(connection: Connection, process: subprocess.Popen[bytes]) -> None:
    """At once: there is nothing in it that would be worth saving."""
    connection.close()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
