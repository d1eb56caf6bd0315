"""Real children that really die."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from caspi import audio
from caspi.audio.isolation import IsolatedDecoder
from caspi.errors import (
    AudioTooLargeError,
    AudioTooLongError,
    DecoderCrashedError,
    DecoderTimeoutError,
    EmptyAudioError,
    TruncatedAudioError,
)
from tests.audio.conftest import encode_as, sine

FAULTY = "tests.audio.decoders_gone_wrong:by_content"
WAV = encode_as(sine(1.0, 44100), 44100)


@pytest.fixture(scope="module")
def decoder() -> Iterator[IsolatedDecoder]:
    with IsolatedDecoder() as decoder:
        yield decoder


@pytest.fixture(scope="module")
def faulty() -> Iterator[IsolatedDecoder]:
    with IsolatedDecoder(decoder=FAULTY, timeout_s=2.0, memory_limit_bytes=2**29) as decoder:
        yield decoder


def test_the_child_gives_what_decode_gives(decoder):
    direct = audio.decode(WAV, source="tone.wav")
    isolated = decoder.decode(WAV, source="tone.wav")
    np.testing.assert_array_equal(isolated.samples, direct.samples)
    assert (isolated.sample_rate, isolated.native_sample_rate, isolated.codec) == (16000, 44100, "wav")


def test_recordings_larger_than_a_pipe_pass_both_ways(decoder):
    long = encode_as(sine(120.0, 16000), 16000, "float")
    assert decoder.decode(long, source="long.wav").duration_s == 120


def test_errors_arrive_as_they_were_raised(decoder):
    for encoded, kind in ((b"", EmptyAudioError), (WAV[:20000], TruncatedAudioError)):
        with pytest.raises(kind) as direct:
            audio.decode(encoded, source="שיר.wav")
        with pytest.raises(kind) as isolated:
            decoder.decode(encoded, source="שיר.wav")
        assert (str(isolated.value), isolated.value.reason) == (str(direct.value), direct.value.reason)
    with pytest.raises(AudioTooLongError):
        decoder.decode(WAV, source="x", max_duration_s=0.5)


@pytest.mark.parametrize(("deed", "words"), [(b"segfault", "SIGSEGV"), (b"abort", "SIGABRT"), (b"exit", "exit code 0")])
def test_a_recording_that_kills_its_decoder_is_refused_alone(faulty, deed, words):
    with pytest.raises(DecoderCrashedError, match=words) as raised:
        faulty.decode(deed, source="deadly.mp3")
    assert raised.value.reason == "decoder_crashed"
    assert "deadly.mp3" in str(raised.value)
    assert faulty.decode(WAV, source="next.wav").duration_s == 1.0


def test_a_decoder_that_hangs_is_stopped_in_time(faulty):
    faulty.decode(WAV, source="warm.wav")
    start = time.monotonic()
    with pytest.raises(DecoderTimeoutError, match=r"endless\.mp3: not decoded after 2 s") as raised:
        faulty.decode(b"hang", source="endless.mp3")
    assert 1.9 < time.monotonic() - start < 4
    assert raised.value.reason == "decoder_timeout"
    assert faulty.decode(WAV, source="next.wav").duration_s == 1.0


def test_a_decoder_that_eats_memory_meets_its_limit(faulty):
    with pytest.raises(AudioTooLargeError, match=r"bomb\.flac") as raised:
        faulty.decode(b"memory", source="bomb.flac")
    assert raised.value.reason == "audio_too_large"
    assert faulty.decode(WAV, source="next.wav").duration_s == 1.0


def test_a_mistake_of_ours_is_not_blamed_on_the_recording(faulty):
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        faulty.decode(b"bug", source="innocent.wav")


def test_what_libraries_print_is_heard_by_nobody(faulty, capfd):
    answer = faulty.decode(b"print", source="x")
    np.testing.assert_array_equal(answer.samples, [0, 1, 2, 3, 4])
    assert (answer.native_sample_rate, answer.codec) == (48000, "noise")
    assert capfd.readouterr() == ("", "")


def test_a_child_that_was_killed_between_two_calls_is_replaced(decoder):
    decoder.decode(WAV, source="x")
    os.kill(decoder._child.pid, signal.SIGKILL)
    assert decoder._child.wait() == -signal.SIGKILL
    assert decoder.decode(WAV, source="x").duration_s == 1.0


def test_one_child_serves_many_calls_and_threads_take_turns(faulty):
    faulty.decode(WAV, source="x")
    child = faulty._child.pid
    threads = [threading.Thread(target=faulty.decode, args=(b"nap",), kwargs={"source": "x"}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faulty._child.pid == child


def test_a_decoder_that_cannot_start_says_how_to_see_why():
    with (
        pytest.raises(RuntimeError, match=r"did not start .* run .*no_such_module"),
        IsolatedDecoder(decoder="no_such_module:decode") as broken,
    ):
        broken.decode(WAV, source="x")


def test_the_child_ends_with_its_parent(tmp_path):
    """Even when the parent is killed, and even while the decoder hangs."""
    pids = tmp_path / "pid"
    parent = f"""
import sys, threading, time
sys.path[:0] = {[str(Path.cwd()), str(Path.cwd() / "platform")]!r}
from caspi.audio.isolation import IsolatedDecoder
decoder = IsolatedDecoder(decoder={FAULTY!r}, timeout_s=1)
decoder.decode(b"nap", source="x")
open({str(pids)!r}, "w").write(str(decoder._child.pid))
threading.Thread(target=decoder.decode, args=(b"ENCODED",), kwargs={{"source": "x"}}).start()
time.sleep(0.3)
import os
os.kill(os.getpid(), 9)
"""
    for deed, patience_s in (("nap", 5), ("hang", 12)):
        subprocess.run([sys.executable, "-c", parent.replace("ENCODED", deed)], check=False)
        until = time.monotonic() + patience_s
        while is_alive(int(pids.read_text())):
            assert time.monotonic() < until, f"the child outlived its parent ({deed})"
            time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
