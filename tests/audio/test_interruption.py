"""An exception that comes from outside while audio is decoded or encoded, as Ctrl-C and Ray's cancelling do."""

import gc
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import soundfile

from caspi import audio

_PROGRAM = """
import io, signal, sys
import numpy as np, soundfile
from caspi import audio

class Stopped(BaseException):
    pass

is_armed = False

def stop(*_):
    global is_armed
    if is_armed:
        is_armed = False
        raise Stopped

signal.signal(signal.SIGALRM, stop)
random = np.random.default_rng(0)
samples = (3000 * random.normal(size=8000)).astype(np.int16)
{prepare}
num_stopped = 0
for _ in range(500):
    try:
        is_armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 1e-3))
        for _ in range(10):
            {work}
        is_armed = False
    except Stopped:
        num_stopped += 1
print(num_stopped)
"""


def count_arrived(*, prepare: str, work: str) -> int:
    """How many of 500 exceptions arrived while `work` was done.

    In a process of its own: an exception within a callback of libsndfile can end the interpreter.
    """
    program = _PROGRAM.format(prepare=prepare, work=work)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_it_arrives_and_no_recording_is_blamed(container: str):
    prepare = f"written = io.BytesIO(); soundfile.write(written, samples, 16000, format={container!r})"
    work = "audio.decode(written.getvalue(), source='whole')  # no AudioError"
    assert count_arrived(prepare=prepare, work=work) > 100


def test_nothing_that_is_written_is_half_of_it():
    prepare, work = "whole = audio.encode_flac(samples)", "assert audio.encode_flac(samples) == whole"
    assert count_arrived(prepare=prepare, work=work) > 100


def test_a_file_that_is_closed_when_it_comes_is_not_closed_again(monkeypatch: pytest.MonkeyPatch):
    num_closed = 0

    class Libsndfile:
        """Like the real one, but an exception arrives as soon as a file is closed."""

        def __getattr__(self, name: str) -> Any:
            return getattr(libsndfile, name)

        def sf_close(self, handle: Any) -> None:
            nonlocal num_closed
            num_closed += 1
            if num_closed == 1:  # twice in earnest would end this interpreter
                libsndfile.sf_close(handle)
            raise KeyboardInterrupt

    libsndfile = soundfile._snd
    encoded = audio.encode_flac(np.zeros(8000, np.int16))
    monkeypatch.setattr(soundfile, "_snd", Libsndfile())
    with pytest.raises(KeyboardInterrupt):
        audio.decode(encoded, source="whole")
    gc.collect()
    assert num_closed == 1
