"""Small files that claim, or decode to, far more than they are, each in a process whose memory is watched."""

import io
import json
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

# A few tables of FFmpeg's at their bound, blocks and tables of ours. Unbounded, the first took 1.7 GB.
MAX_GROWTH_MB = 200

PROGRAM = r"""
import json, re, sys
from pathlib import Path
from caspi import audio
from caspi.errors import AudioError

def peak_mb():  # not getrusage: a child inherits its parent's peak there
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

warm = Path(sys.argv[1]).read_bytes()
audio.decode(warm, source="warm")
before = peak_mb()
try:
    audio.decode(Path(sys.argv[2]).read_bytes(), source="bomb", max_duration_s=600)
    outcome = "decoded"
except AudioError as error:
    outcome = type(error).__name__
print(json.dumps({"outcome": outcome, "grown_mb": peak_mb() - before}))
"""


def m4a() -> bytes:
    """A second of a tone."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=16000, layout="mono")
        tone = 0.1 * np.sin(np.arange(16000) / 8)
        frame = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    return target.getvalue()


def claim_samples(mp4: bytes, count: int) -> bytes:
    """Its tables say that there are `count` samples of a byte, all in one chunk."""
    forged = bytearray(mp4)
    sizes, chunks, times = (forged.index(name) for name in (b"stsz", b"stsc", b"stts"))
    forged[sizes + 8 : sizes + 16] = struct.pack(">II", 1, count)
    for entry in range(struct.unpack(">I", forged[chunks + 8 : chunks + 12])[0]):
        place = chunks + 16 + 12 * entry
        forged[place : place + 4] = struct.pack(">I", count)
    forged[times + 12 : times + 16] = struct.pack(">I", count)
    return bytes(forged)


def with_many_tracks(mp4: bytes, num_tracks: int) -> bytes:
    """Its track `num_tracks` times. The places of samples in it stay as they were: `moov` comes last."""
    moov = mp4.index(b"moov") - 4
    track = mp4.index(b"trak") - 4
    size = struct.unpack(">I", mp4[track : track + 4])[0]
    grown = struct.unpack(">I", mp4[moov : moov + 4])[0] + size * (num_tracks - 1)
    tracks = mp4[track : track + size] * num_tracks
    return mp4[:moov] + struct.pack(">I", grown) + mp4[moov + 4 : track] + tracks + mp4[track + size :]


def silence(hours: float, rate: int) -> bytes:
    """FLAC of digital silence: a frame of a dozen bytes for every 4096 samples."""
    target = io.BytesIO()
    with soundfile.SoundFile(target, "w", rate, 1, "PCM_16", format="FLAC") as file:
        for _ in range(int(hours * 60)):
            file.write(np.zeros(60 * rate, np.int16))
    return target.getvalue()


def without_length(flac: bytes) -> bytes:
    """STREAMINFO says that nobody knows how many samples there are."""
    forged = bytearray(flac)
    forged[21] &= 0xF0
    forged[22:26] = bytes(4)
    return bytes(forged)


@pytest.mark.parametrize(
    ("make", "outcome"),
    [
        (lambda: claim_samples(m4a(), 50_000_000), "EmptyAudioError"),
        (lambda: with_many_tracks(claim_samples(m4a(), 1_000_000), 100), "AudioTooLargeError"),
        (lambda: silence(1, 16000), "AudioTooLongError"),
        (lambda: without_length(silence(1, 16000)), "AudioTooLongError"),
    ],
    ids=["MP4 of 50 million samples", "MP4 of 100 tracks", "an hour of silence", "silence of unknown length"],
)
def test_a_bomb_is_refused_before_memory_grows(make, outcome: str, tmp_path: Path):
    (tmp_path / "warm.m4a").write_bytes(m4a())
    bomb = make()
    assert len(bomb) < 2**20
    (tmp_path / "bomb").write_bytes(bomb)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "warm.m4a"), str(tmp_path / "bomb")]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)
    assert told["outcome"] == outcome
    assert told["grown_mb"] < MAX_GROWTH_MB
