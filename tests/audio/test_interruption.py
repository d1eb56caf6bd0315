"""An exception that comes from outside while a recording is decoded, as Ctrl-C and Ray's cancelling do."""

import subprocess
import sys

import pytest

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
written = io.BytesIO()
soundfile.write(written, 0.1 * random.normal(size=8000), 16000, format=sys.argv[1])
num_stopped = 0
for _ in range(500):
    try:
        is_armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 1e-3))
        for _ in range(10):
            audio.decode(written.getvalue(), source="whole")  # no AudioError
        is_armed = False
    except Stopped:
        num_stopped += 1
print(num_stopped)
"""


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_it_arrives_and_no_recording_is_blamed(container: str):
    """In a process of its own: an exception within a callback of libsndfile can end the interpreter."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM, container], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 100


_WRITING = """
import signal
import numpy as np
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
whole = audio.encode_flac(samples)
num_stopped = 0
for _ in range(500):
    try:
        is_armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 1e-3))
        for _ in range(10):
            assert audio.encode_flac(samples) == whole
        is_armed = False
    except Stopped:
        num_stopped += 1
print(num_stopped)
"""


def test_nothing_that_is_written_is_half_of_it():
    done = subprocess.run([sys.executable, "-c", _WRITING], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 100
