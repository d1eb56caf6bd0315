import io
import struct

import numpy as np
import pytest
import soundfile

from caspi import audio
from caspi.errors import AudioDecodeError, AudioTooLongError, EmptyAudioError
from tests.audio.conftest import FORMATS, sine


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("sample_rate", [8000, 16000, 48000])
def test_every_format_and_rate_comes_back_at_16_khz_with_its_pitch(encode, name, sample_rate):
    decoded = audio.decode(encode(sine(1.0, sample_rate), sample_rate, name), source="tone")

    assert decoded.sample_rate == 16000
    assert decoded.samples.dtype == np.float32
    assert decoded.samples.ndim == 1
    assert decoded.duration_s == pytest.approx(1.0, abs=0.02)
    loudest = np.abs(np.fft.rfft(decoded.samples)).argmax() / decoded.duration_s
    assert loudest == pytest.approx(440, abs=2)


def test_stereo_is_averaged_not_dropped(encode):
    left, right = np.full(16000, 0.2, np.float32), np.full(16000, 0.6, np.float32)
    decoded = audio.decode(encode(np.stack([left, right], axis=1), 16000, "float"), source="stereo.wav")
    np.testing.assert_allclose(decoded.samples, 0.4, atol=1e-6)


def test_recordings_longer_than_a_block_are_whole(encode):
    samples = sine(65.0, 8000)
    decoded = audio.decode(encode(samples, 8000, "float"), source="long.wav", sample_rate=8000)
    np.testing.assert_array_equal(decoded.samples, samples)


def test_no_bytes_are_empty_audio():
    with pytest.raises(EmptyAudioError, match=r"void\.wav: 0 bytes"):
        audio.decode(b"", source="void.wav")


def test_a_header_without_samples_is_empty_audio(encode):
    with pytest.raises(EmptyAudioError, match=r"void\.wav"):
        audio.decode(encode(np.zeros(0, np.float32), 16000), source="void.wav")


@pytest.mark.parametrize("content", [b"not audio at all" * 50, b"<html>403</html>", b"\0" * 4096, b"RIFF"])
def test_what_is_not_audio_names_its_source(content):
    with pytest.raises(AudioDecodeError, match=r"page\.mp3"):
        audio.decode(content, source="page.mp3")


def test_mp4_is_named_as_such():
    with pytest.raises(AudioDecodeError, match="M4A"):
        audio.decode(b"\0\0\0\x20ftypM4A " + b"\0" * 500, source="memo.m4a")


@pytest.mark.parametrize("name", ["wav", "float", "flac", "mp3", "vorbis", "opus"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.02])
def test_a_recording_cut_short_is_refused(encode, name, share):
    whole = encode(sine(20.0, 16000), 16000, name)
    with pytest.raises(AudioDecodeError, match=r"cut\.bin"):
        audio.decode(whole[: int(len(whole) * share)], source="cut.bin")


def test_a_wav_from_a_pipe_that_could_not_know_its_size_is_read(encode):
    whole = bytearray(encode(sine(1.0, 16000), 16000))
    place = whole.index(b"data") + 4
    whole[place : place + 4] = struct.pack("<I", 0xFFFFFFFF)
    assert audio.decode(bytes(whole), source="pipe.wav").duration_s == pytest.approx(1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(encode, value):
    samples = sine(0.5, 16000)
    samples[100] = value
    with pytest.raises(AudioDecodeError, match="NaN or infinite"):
        audio.decode(encode(samples, 16000, "float"), source="broken.wav")


def test_too_long_is_known_from_the_header(encode):
    with pytest.raises(AudioTooLongError, match="at most 2 s"):
        audio.decode(encode(sine(3.0, 16000), 16000), source="long.wav", max_duration_s=2)


def test_too_long_is_noticed_when_the_header_lies(encode):
    whole = bytearray(encode(sine(120.0, 16000), 16000, "flac"))
    # STREAMINFO: the total of samples is the low 36 bits that end at byte 26. 0 says that nobody knows.
    whole[21] &= 0xF0
    whole[22:26] = bytes(4)
    with pytest.raises(AudioTooLongError):
        audio.decode(bytes(whole), source="liar.flac", max_duration_s=60)


def test_flac_returns_16_bit_audio_to_the_bit(encode):
    integers = np.array([-32768, -1, 0, 1, 32767] * 200, np.int16)
    wav = io.BytesIO()
    soundfile.write(wav, integers, 16000, format="WAV", subtype="PCM_16")
    flac = audio.encode_flac(audio.decode(wav.getvalue(), source="x").samples)
    returned, sample_rate = soundfile.read(io.BytesIO(flac), dtype="int16")
    assert sample_rate == audio.SAMPLE_RATE
    np.testing.assert_array_equal(returned, integers)


def test_flac_clips_and_never_wraps():
    flac = audio.encode_flac(np.array([1.0, 1.7, -3.0, 0.0] * 100, np.float32))
    samples = audio.decode(flac, source="loud").samples[:4]
    np.testing.assert_allclose(samples, [1, 1, -1, 0], atol=1e-4)
