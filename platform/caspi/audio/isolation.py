"""Decoding in a process of its own, so that a recording that kills its decoder kills nothing else.

The child is a fresh interpreter and not a fork: whoever decodes in a Ray worker has threads, and a fork of those may
hang on a lock that nobody holds any more. They speak over the child's standard input and output: a request is a JSON
line, its length before it, then the encoded bytes; an answer is a JSON line, then the samples.

This guards against damage, not against an attacker: the child has the rights of its parent.
"""

import importlib
import io
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from caspi import errors
from caspi.audio.decoding import SAMPLE_RATE, Audio
from caspi.audio.watchdog import deadline
from caspi.errors import AudioError, AudioTooLargeError, DecoderCrashedError, DecoderTimeoutError

_LENGTHS = struct.Struct("<IQ")  # of the JSON, of the bytes behind it
_START_TIMEOUT_S = 60.0
_GRACE_S = 5.0  # for the child to notice by itself that it hangs; it matters only when nobody is left to kill it
_PIPE_BYTES = 65536


class IsolatedDecoder:
    """`decode` in a child process with a memory limit and a time limit.

    The child starts at the first call and serves until it dies or is too slow; the recording that it died of is an
    AudioError, and the next call gets a new child. One call at a time. Over the same decoder called directly a call
    costs a tenth of a millisecond, and a copy of the bytes and of the samples through a pipe.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 120.0,
        memory_limit_bytes: int = 2 * 2**30,
        decoder: str = "caspi.audio.decoding:decode",
    ) -> None:
        """`memory_limit_bytes` is what decoding may take on top of the libraries; `decoder` names a function that is
        called as `decode` is."""
        self._timeout_s = timeout_s
        self._memory_limit_bytes = memory_limit_bytes
        self._decoder = decoder
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def decode(
        self, encoded: bytes, *, source: str, sample_rate: int = SAMPLE_RATE, max_duration_s: float = 10800
    ) -> Audio:
        """As `caspi.audio.decode`, errors included.

        Raises:
            AudioTooLargeError: the decoder asked for more memory than it may have.
            DecoderCrashedError: the child died.
            DecoderTimeoutError: it took longer than `timeout_s`, and was killed.
        """
        request = {
            "source": source,
            "sample_rate": sample_rate,
            "max_duration_s": max_duration_s,
            "timeout_s": self._timeout_s,
        }
        with self._lock:
            child = self._running_child()
            try:
                answer, samples = _ask(child, request, encoded, time.monotonic() + self._timeout_s)
            except TimeoutError:
                self.close()
                raise DecoderTimeoutError(
                    f"{source}: not decoded after {self._timeout_s:g} s ({len(encoded)} bytes); its decoder was stopped"
                ) from None
            except (EOFError, BrokenPipeError):
                code = _end(child)
                self.close()
                raise DecoderCrashedError(
                    f"{source}: the decoder died of it ({_describe(code)}; {len(encoded)} bytes)"
                ) from None
            except BaseException:  # interrupted in the middle of an answer: the child is of no more use
                self.close()
                raise
        if "bug" in answer:
            raise RuntimeError(f"{source}: the decoder's process failed:\n{answer['bug']}")
        if "error" in answer:
            kind = getattr(errors, answer["error"], AudioError)
            raise kind(answer["message"])
        return Audio(samples, answer["sample_rate"], answer["native_sample_rate"], answer["codec"])

    def close(self) -> None:
        """Stop the child, if there is one."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            pipe.close()

    def _running_child(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is not None:
            self.close()  # it died between two calls, of something that no recording explains
        if self._child is None:
            self._child = self._start()
        return self._child

    def _start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),  # where the parent found caspi
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        # -P: what lies in the working folder must not shadow the library.
        command = [sys.executable, "-P", "-m", "caspi.audio.isolation", self._decoder, str(self._memory_limit_bytes)]
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
        )
        assert child.stdin is not None and child.stdout is not None
        os.set_blocking(child.stdin.fileno(), False)
        os.set_blocking(child.stdout.fileno(), False)
        try:
            _receive(child.stdout.fileno(), time.monotonic() + _START_TIMEOUT_S)
        except (EOFError, TimeoutError) as error:
            called = " ".join(command)
            raise RuntimeError(
                f"the decoder's process did not start ({_describe(_end(child))}); to see why, run {called}"
            ) from error
        return child


def _end(child: subprocess.Popen[bytes]) -> int:
    """The exit code of a child that closed its pipe, which it does by dying."""
    try:
        return child.wait(timeout=1)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _describe(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _ask(
    child: subprocess.Popen[bytes], request: dict[str, Any], encoded: bytes, until: float
) -> tuple[dict[str, Any], np.ndarray]:
    """Send one request and wait for its answer. TimeoutError, EOFError and BrokenPipeError say how it failed."""
    assert child.stdin is not None and child.stdout is not None
    head = json.dumps(request).encode()
    for part in (_LENGTHS.pack(len(head), len(encoded)) + head, encoded):
        _send(child.stdin.fileno(), part, until)
    return _receive(child.stdout.fileno(), until)


def _send(pipe: int, part: bytes, until: float) -> None:
    rest = memoryview(part)
    while rest:
        _wait(pipe, select.POLLOUT, until)
        rest = rest[os.write(pipe, rest) :]


def _receive(pipe: int, until: float) -> tuple[dict[str, Any], np.ndarray]:
    head_length, num_bytes = _LENGTHS.unpack(_read(pipe, bytearray(_LENGTHS.size), until))
    answer = json.loads(_read(pipe, bytearray(head_length), until))
    samples = np.empty(num_bytes // 4, np.float32)
    _fill(pipe, samples.view(np.uint8).data, until)
    return answer, samples


def _read(pipe: int, target: bytearray, until: float) -> bytearray:
    _fill(pipe, memoryview(target), until)
    return target


def _fill(pipe: int, target: memoryview, until: float) -> None:
    while target:
        _wait(pipe, select.POLLIN, until)
        num_read = os.readv(pipe, [target])
        if not num_read:
            raise EOFError
        target = target[num_read:]


def _wait(pipe: int, event: int, until: float) -> None:
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
        raise TimeoutError


def _serve(requests: BinaryIO, answers: BinaryIO, decode: Callable[..., Audio]) -> None:
    """Answer until the parent closes its end, by intent or by dying."""
    while len(lengths := requests.read(_LENGTHS.size)) == _LENGTHS.size:
        head_length, num_bytes = _LENGTHS.unpack(lengths)
        request = json.loads(requests.read(head_length))
        encoded = requests.read(num_bytes)
        # The parent kills who is late; should the parent be dead, nobody would, and a decoder may hang for ever.
        with deadline(request.pop("timeout_s") + _GRACE_S):
            answer, samples = _answer(decode, encoded, request)
        head = json.dumps(answer).encode()
        answers.write(_LENGTHS.pack(len(head), samples.nbytes) + head)
        answers.write(samples.view(np.uint8).data)
        answers.flush()


def _answer(decode: Callable[..., Audio], encoded: bytes, request: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    nothing = np.zeros(0, np.float32)
    try:
        audio = decode(encoded, **request)
    except AudioError as error:
        return {"error": type(error).__name__, "message": str(error)}, nothing
    except MemoryError:
        message = f"{request['source']}: {len(encoded)} bytes that take more memory to decode than is allowed"
        return {"error": AudioTooLargeError.__name__, "message": message}, nothing
    except Exception:
        return {"bug": traceback.format_exc()}, nothing
    answer = {
        "sample_rate": audio.sample_rate,
        "native_sample_rate": audio.native_sample_rate,
        "codec": audio.codec,
    }
    return answer, np.ascontiguousarray(audio.samples, np.float32)


def _limit_memory(extra_bytes: int) -> None:
    """Let the address space grow by so much from here: what the libraries have mapped is no fault of a recording's."""
    with open("/proc/self/statm") as statm:
        num_pages = int(statm.read().split()[0])
    limit = num_pages * resource.getpagesize() + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is expected here, and gigabytes of it help nobody


def main(decoder: str, memory_limit_bytes: int) -> None:
    """The child."""
    requests = os.fdopen(os.dup(0), "rb", buffering=_PIPE_BYTES)
    answers = io.BufferedWriter(io.FileIO(os.dup(1), "w"), _PIPE_BYTES)
    # What libraries print must not come between the answers.
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    module, function = decoder.split(":")
    decode = getattr(importlib.import_module(module), function)
    _limit_memory(memory_limit_bytes)
    answers.write(_LENGTHS.pack(2, 0) + b"{}")
    answers.flush()
    _serve(requests, answers, decode)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes our pipe
    main(sys.argv[1], int(sys.argv[2]))
