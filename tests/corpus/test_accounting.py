"""Two thousand rows, every third damaged in one of many ways: nothing is lost, and nothing takes a neighbour."""

import io
import struct
import zipfile

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from caspi.corpus import prepare
from tests.corpus.conftest import CROWD_TRANSCRIBE, crowd_row, recipe, tone, write_parquet

pytestmark = pytest.mark.usefixtures("ray_2_cpus")

_NUM_ROWS = 2000
_TEXT = "שלום עולם"


def encoded(samples, container="WAV", subtype="PCM_16", sample_rate=16000):
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format=container, subtype=subtype)
    return file.getvalue()


def m4a(frequency):
    file = io.BytesIO()
    with av.open(file, "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        samples = 0.3 * np.sin(2 * np.pi * frequency * np.arange(44100 * 2) / 44100)
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def cut(content, share=0.6):
    return content[: int(len(content) * share)]


def with_channels(wav, num_channels):
    """The same WAV file with another number of channels in its header."""
    return wav[:22] + struct.pack("<H", num_channels) + wav[24:]


def promising(wav, num_bytes):
    """The same WAV file with a header that promises more than there is."""
    return wav[:40] + struct.pack("<I", num_bytes) + wav[44:]


def damaged_middle(content):
    middle = len(content) // 2
    return content[:middle] + bytes(byte ^ 0xA5 for byte in content[middle : middle + 2000]) + content[middle + 2000 :]


def archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as content:
        content.writestr("clip.wav", tone())
    return file.getvalue()


def noise(seed, seconds=2.0):
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * 16000))


def hours_of_silence(seed):
    return encoded(np.zeros(16000 * 3600 * 4 + seed, np.int16), "FLAC")


# Each makes (audio, text, flags) of row number `n`, which is different for every row.
_DAMAGE = {
    "no bytes": ("empty_audio", lambda n: (b"", _TEXT, {})),
    "a web page": ("undecodable_audio", lambda n: (b"<!doctype html><html>404 %d</html>" % n, _TEXT, {})),
    "noise for a file": ("undecodable_audio", lambda n: (np.random.default_rng(n).bytes(5000), _TEXT, {})),
    "an archive": ("undecodable_audio", lambda n: (archive(), _TEXT, {})),
    "half a WAV": ("truncated_audio", lambda n: (cut(tone(2, frequency=n + 50)), _TEXT, {})),
    "half an MP3": (
        "truncated_audio",
        lambda n: (cut(encoded(noise(n, 4), "MP3", "MPEG_LAYER_III")), _TEXT, {}),
    ),
    "half a FLAC": ("truncated_audio", lambda n: (cut(encoded(noise(n), "FLAC")), _TEXT, {})),
    "half a Vorbis": ("truncated_audio", lambda n: (cut(encoded(noise(n), "OGG", "VORBIS")), _TEXT, {})),
    "half an Opus": ("truncated_audio", lambda n: (cut(encoded(noise(n), "OGG", "OPUS")), _TEXT, {})),
    "half an M4A": ("truncated_audio", lambda n: (cut(m4a(200 + n)), _TEXT, {})),
    "not a number": (
        "invalid_samples",
        lambda n: (encoded(np.where(np.arange(32000) == n, np.nan, noise(n)), subtype="FLOAT"), _TEXT, {}),
    ),
    "a header alone": ("empty_audio", lambda n: (encoded(np.zeros(0, np.int16)), _TEXT, {})),
    "no channels": ("empty_audio", lambda n: (with_channels(tone(2, frequency=n + 50), 0), _TEXT, {})),
    "a lying header": ("truncated_audio", lambda n: (promising(tone(2, frequency=n + 50), 2**30), _TEXT, {})),
    "a bomb": ("audio_too_long", lambda n: (hours_of_silence(n), _TEXT, {})),
    "damaged frames": ("undecodable_audio", lambda n: (damaged_middle(encoded(noise(n), "FLAC")), _TEXT, {})),
    "null audio": ("missing_audio", lambda n: (None, _TEXT, {})),
    "null text": ("empty_text", lambda n: (encoded(noise(n)), None, {})),
    "marks alone": ("empty_text", lambda n: (encoded(noise(n)), "...!?", {})),
    "tokens alone": ("empty_text", lambda n: (encoded(noise(n)), "<|0.00|><|im_end|>", {})),
    "a click": ("too_short", lambda n: (encoded(noise(n, 0.1)), "א", {})),
    "half a minute and more": ("too_long", lambda n: (encoded(noise(n, 31)), _TEXT * 9, {})),
    "too much text": ("too_many_characters", lambda n: (encoded(noise(n)), _TEXT * 20, {})),
    "too little text": ("too_few_characters", lambda n: (encoded(noise(n, 20)), "א", {})),
    "another script": ("wrong_script", lambda n: (encoded(noise(n)), "hello there world", {})),
    "silence": ("silent", lambda n: (encoded(np.zeros(32000 + n, np.int16)), _TEXT, {})),
    "a clipped clip": ("clipped", lambda n: (encoded(np.sign(noise(n))), _TEXT, {})),
    "flagged noisy": ("noisy", lambda n: (encoded(noise(n)), _TEXT, {"noisy": True})),
    "skipped": ("skipped", lambda n: (encoded(noise(n)), _TEXT, {"skipped": True})),
}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """(recipe, what is to become of each row)."""
    folder = tmp_path_factory.mktemp("damaged")
    kinds = list(_DAMAGE)
    rows, expected = [], {}
    for number in range(_NUM_ROWS):
        kind = kinds[number // 3 % len(kinds)] if number % 3 == 2 else None
        # A bomb takes seconds to make and to refuse; two are enough.
        if kind == "a bomb" and number > 200:
            kind = None
        name = f"{number:04d} {kind or 'good'}"
        if kind is None:
            rows.append(crowd_row(name, _TEXT, encoded(noise(number, 1.0))))
            expected[name] = None
        else:
            reason, make = _DAMAGE[kind]
            content, text, flags = make(number)
            row = crowd_row(name, text, content or b"", **flags)
            if content is None:
                row["audio"] = {"bytes": None, "path": "lost.mp3"}
            rows.append(row)
            expected[name] = reason
    # Repetitions of the first good rows: of the id, of the sound with its text, and of the sound alone.
    rows.append(crowd_row("0000 good", _TEXT, encoded(noise(-1 % 2**31))))
    rows.append(crowd_row("again", _TEXT, encoded(noise(0, 1.0))))
    rows.append(crowd_row("contradiction", "משהו אחר", encoded(noise(1, 1.0))))
    write_parquet(folder / "train.parquet", rows, CROWD_TRANSCRIBE)
    return recipe({"kind": "hub_parquet", "path": folder / "train.parquet", "split": "train"}), expected


def test_every_good_row_is_kept_and_every_bad_one_has_its_reason(damaged, tmp_path):
    wanted, expected = damaged
    corpus = prepare(wanted, tmp_path / "corpus")
    refusals = pq.read_table(corpus.path / "rejected.parquet").to_pylist()
    found = {row["utterance_id"]: row["reason"] for row in refusals if row["reason"] not in ("duplicate_id",)}

    bad = {name: reason for name, reason in expected.items() if reason}
    bad |= {"again": "duplicate", "contradiction": "duplicate_audio"}
    assert found == bad
    assert len({kind for kind in _DAMAGE}) + 3 >= 25
    kept = set(corpus.utterances["utterance_id"].to_pylist())
    assert kept == {name for name, reason in expected.items() if reason is None}

    manifest = corpus.manifest
    assert manifest["num_recordings"] == _NUM_ROWS + 3
    assert manifest["num_recordings"] - manifest["num_recordings_rejected"] == len(kept)
    assert sum(manifest["rejected_by_reason"].values()) == len(refusals) == _NUM_ROWS + 3 - len(kept)
    assert manifest["rejected_by_reason"]["duplicate_id"] == 1
    assert all(row["detail"] for row in refusals)
