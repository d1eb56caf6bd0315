import io
import json
import struct
import tracemalloc

import av
import numpy as np
import pytest
import soundfile
import soxr

from caspi import audio
from caspi.errors import (
    AudioDecodeError,
    AudioTooLongError,
    EmptyAudioError,
    InvalidSamplesError,
    TruncatedAudioError,
)
from tests.audio.conftest import ANY_FORMAT, FFMPEG_FORMATS, sine


@pytest.mark.parametrize("name", ANY_FORMAT)
@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100, 48000])
def test_every_format_and_rate_comes_back_at_16_khz_with_its_pitch(encode, name, sample_rate):
    if sample_rate == 44100 and "opus" in name + str(FFMPEG_FORMATS.get(name)):
        pytest.skip("Opus has no 44.1 kHz")
    decoded = audio.decode(encode(sine(1.0, sample_rate), sample_rate, name), source="tone")

    assert decoded.sample_rate == 16000
    assert decoded.samples.dtype == np.float32
    assert decoded.samples.ndim == 1
    exact = name not in ("adts", "mkv", "adpcm", "webm-vorbis")  # these know no end but their last frame's
    assert decoded.duration_s == pytest.approx(1.0, abs=0.005 if exact else 0.4)
    # The parts after an encoder's warming up and before its padding.
    middle = decoded.samples[3200:14400]
    loudest = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))).argmax() * 16000 / len(middle)
    assert loudest == pytest.approx(440, abs=2)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("sample_rate", [8000, 11025, 22050, 32000, 88200, 96000, 176400, 192000])
@pytest.mark.parametrize("num_channels", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("name", ["wav", "flac"])
def test_8_to_192_khz_and_1_to_8_channels_are_averaged(encode, name, sample_rate, num_channels):
    levels = np.arange(1, num_channels + 1) / 10
    tone = sine(0.5, sample_rate, level=1.0)
    decoded = audio.decode(encode(tone[:, None] * levels, sample_rate, name), source="tone")
    assert (decoded.native_sample_rate, len(decoded.samples)) == (sample_rate, pytest.approx(8000, abs=1))
    middle = decoded.samples[1000:-1000]
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(levels.mean(), rel=0.02)


@pytest.mark.parametrize("name", ["m4a", "webm", "adts", "opus"])
def test_channels_of_compressed_formats_are_averaged_too(encode, name):
    tone = sine(1.0, 48000, level=1.0)
    decoded = audio.decode(encode(np.stack([tone * 0.2, tone * 0.6], axis=1), 48000, name), source="tone")
    assert np.sqrt(2 * np.mean(decoded.samples[4000:12000] ** 2)) == pytest.approx(0.4, rel=0.1)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("wav", "wav"), ("mulaw", "wav"), ("rf64", "wav"), ("aiff", "aiff"), ("au", "au"), ("sphere", "sphere"),
     ("caf", "caf"), ("flac", "flac"), ("mp3", "mp3"), ("vorbis", "vorbis"), ("opus", "opus"), ("m4a", "aac"),
     ("adts", "aac"), ("webm", "opus"), ("mkv", "aac"), ("alac", "alac"), ("mov", "mp4")],
)  # fmt: skip
def test_what_it_was_is_told(encode, name, codec):
    decoded = audio.decode(encode(sine(0.5, 48000), 48000, name), source="tone")
    assert (decoded.codec, decoded.native_sample_rate) == (codec, 48000)


@pytest.mark.parametrize("sample_rate", [8000, 16000, 24000, 48000])
def test_opus_is_what_libsndfile_makes_of_it(encode, sample_rate):
    rng = np.random.default_rng(0)
    voice = sine(3.0, sample_rate, frequency=150) * (1 + sine(3.0, sample_rate, frequency=3)) / 2
    encoded = encode(voice + 0.01 * rng.normal(size=len(voice)), sample_rate, "opus")
    reference, native_rate = soundfile.read(io.BytesIO(encoded), dtype="float32")
    decoded = audio.decode(encoded, source="x", sample_rate=48000).samples
    # libsndfile decodes at the rate of what was encoded, we at 48 kHz: bandlimited alike, they agree.
    expected = reference if native_rate == 48000 else soxr.resample(reference, native_rate, 48000)
    assert len(decoded) == len(expected)
    difference = np.mean((decoded - expected)[4800:-4800] ** 2) / np.mean(expected**2)
    assert difference < (1e-9 if native_rate == 48000 else 3e-2)


def test_blocks_are_resampled_as_one(encode):
    rng = np.random.default_rng(0)
    samples = (0.1 * rng.normal(size=44100 * 20)).astype(np.float32)
    decoded = audio.decode(encode(samples, 44100, "float"), source="x")
    np.testing.assert_array_equal(decoded.samples, soxr.resample(samples, 44100, 16000))


def test_memory_grows_neither_with_the_rate_nor_with_the_channels(encode):
    short = np.zeros((192000 * 8, 8), np.float32)  # 8 s: 49 MB decoded, 12 MB as bytes, 0.5 MB as the result
    encoded = encode(short, 192000, "wav8")
    tracemalloc.start()
    try:
        audio.decode(encoded, source="wide.wav")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20


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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>404</html>", "HTML"),
        (b"%PDF-1.7\n%\xe2\xe3", "PDF"),
        (b"PK\x03\x04\x14\0\0\0", "ZIP"),
        (b'{"error": "no such key"}', "JSON"),
        ("שלום לכולם".encode(), "text"),
        (b"\x00\x01\x02\xfe" * 9, "not audio"),
        (b"just a line of text\n", "text"),
        (b"#EXTM3U\n/etc/passwd\n", "playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
    ],
)
def test_what_lies_there_in_place_of_audio_is_named(content, words):
    with pytest.raises(AudioDecodeError, match=words) as raised:
        audio.decode(content, source="clip.wav")
    assert raised.value.reason == "undecodable_audio"


def test_an_mp4_without_its_table_of_samples_is_cut(encode):
    whole = encode(sine(2.0, 44100), 44100, "m4a")
    moov = whole.index(b"moov") - 4
    with pytest.raises(TruncatedAudioError, match="MP4/M4A"):
        audio.decode(whole[:moov], source="memo.m4a")


def test_a_video_without_sound_says_so():
    encoded = io.BytesIO()
    with av.open(encoded, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        for _ in range(10):
            output.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        output.mux(stream.encode(None))
    with pytest.raises(AudioDecodeError, match="without an audio stream; it holds video"):
        audio.decode(encoded.getvalue(), source="film.mp4")


def test_sound_is_taken_out_of_a_video():
    encoded = io.BytesIO()
    with av.open(encoded, "w", format="mp4") as output:
        video = output.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        voice = output.add_stream("aac", rate=48000, layout="mono")
        for _ in range(10):
            output.mux(video.encode(av.VideoFrame(32, 32, "yuv420p")))
        frame = av.AudioFrame.from_ndarray(sine(1.0, 48000)[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = 48000, 0
        output.mux([*voice.encode(frame), *voice.encode(None), *video.encode(None)])
    assert audio.decode(encoded.getvalue(), source="film.mp4").duration_s == pytest.approx(1.0, abs=0.03)


def test_encrypted_sound_is_refused(encode):
    whole = encode(sine(2.0, 44100), 44100, "m4a").replace(b"mp4a", b"enca", 1)
    with pytest.raises(AudioDecodeError, match=r"locked\.m4a"):
        audio.decode(whole, source="locked.m4a")


def test_a_file_without_channels_is_empty(encode):
    whole = bytearray(encode(sine(1.0, 16000), 16000))
    whole[22:24] = bytes(2)
    with pytest.raises(EmptyAudioError, match="without a channel"):
        audio.decode(bytes(whole), source="none.wav")


CUTTABLE = [name for name in ANY_FORMAT if name not in ("w64", "webm-vorbis")]


@pytest.mark.parametrize("name", CUTTABLE)
@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_a_recording_cut_short_is_refused_as_such(encode, name, share):
    whole = encode(sine(20.0, 16000), 16000, name)
    with pytest.raises(TruncatedAudioError, match=r"cut\.bin") as raised:
        audio.decode(whole[: int(len(whole) * share)], source="cut.bin")
    assert raised.value.reason == "truncated_audio"


@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "m4a", "opus", "webm", "adts"])
def test_what_is_left_of_a_header_is_refused(encode, name):
    whole = encode(sine(20.0, 16000), 16000, name)
    for length in (1, 4, 12, 40):
        with pytest.raises((AudioDecodeError, EmptyAudioError)):
            audio.decode(whole[:length], source="stub.bin")


def streaminfo_total(encoded: bytes, total: int) -> bytes:
    """The FLAC file with another total of samples, which is the 36 bits that end at byte 26."""
    head = encoded[21] & 0xF0 | total >> 32
    return encoded[:21] + bytes([head]) + (total & 0xFFFFFFFF).to_bytes(4, "big") + encoded[26:]


def test_a_flac_header_that_promises_too_much_means_a_cut_file(encode):
    whole = encode(sine(5.0, 16000), 16000, "flac")
    with pytest.raises(TruncatedAudioError):
        audio.decode(streaminfo_total(whole, 16000 * 50), source="liar.flac")


def test_a_flac_header_that_promises_too_little_does_not_hide_the_rest(encode):
    whole = encode(sine(5.0, 16000), 16000, "flac")
    with pytest.raises(AudioDecodeError, match="80000 are there"):
        audio.decode(streaminfo_total(whole, 16000), source="liar.flac")


def test_a_flac_from_a_pipe_that_could_not_know_its_length_is_read(encode):
    whole = encode(sine(5.0, 16000), 16000, "flac")
    assert audio.decode(streaminfo_total(whole, 0), source="pipe.flac").duration_s == 5.0


@pytest.mark.parametrize("name", ["flac", "mp3"])
def test_a_tag_before_the_sound_is_passed_over(encode, name):
    tag = b"ID3\x04\0\0" + bytes([0, 3, 0, 0]) + bytes(3 << 14)  # 48 KiB, as for a picture of the cover
    decoded = audio.decode(tag + encode(sine(1.0, 16000), 16000, name), source="tagged")
    assert decoded.duration_s == pytest.approx(1.0, abs=0.01)


def test_an_mp3_cut_out_of_a_stream_begins_at_its_first_frame(encode):
    whole = encode(sine(5.0, 16000), 16000, "mp3")
    assert audio.decode(whole[1000:], source="stream.mp3").duration_s == pytest.approx(4.8, abs=0.3)


def test_damage_prints_nothing(encode, capfd):
    whole = bytearray(encode(sine(3.0, 44100), 44100, "m4a"))
    whole[2000:9000] = bytes(7000)
    with pytest.raises(AudioDecodeError):
        audio.decode(bytes(whole), source="memo.m4a")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("rate", [0, 1, 500, 4_000_000])
def test_an_absurd_rate_is_a_damaged_header(encode, rate):
    whole = bytearray(encode(sine(1.0, 16000), 16000))
    whole[24:28] = struct.pack("<I", rate)
    with pytest.raises(AudioDecodeError):
        audio.decode(bytes(whole), source="rate.wav")


def test_a_bomb_is_defused_while_it_unfolds(encode):
    """Silence as FLAC that promises nothing: ten minutes in 3 kB."""
    bomb = streaminfo_total(encode(np.zeros(16000 * 600, np.float32), 16000, "flac"), 0)
    assert len(bomb) < 50_000
    with pytest.raises(AudioTooLongError):
        audio.decode(bomb, source="bomb.flac", max_duration_s=60)


@pytest.mark.parametrize("name", ["m4a", "webm", "opus", "mp3"])
def test_too_long_is_known_for_every_library(encode, name):
    with pytest.raises(AudioTooLongError, match="at most 2 s"):
        audio.decode(encode(sine(3.0, 48000), 48000, name), source="long", max_duration_s=2)


def test_real_recordings_are_read_whole(material):
    """Stereo Opus, four channels, 8-bit, float, SPHERE, MP3 at 8 kHz; AAC from a phone.

    The manifests count the padding of MP3s.
    """
    for folder in (material("speech/formats"), material("speech/heblang")):
        for line in (folder / "manifest.jsonl").read_text().splitlines():
            row = json.loads(line)
            decoded = audio.decode((folder / row["audio"]).read_bytes(), source=row["id"])
            assert decoded.duration_s == pytest.approx(row["duration_s"], abs=0.16), row["id"]


def test_a_wav_from_a_pipe_that_could_not_know_its_size_is_read(encode):
    whole = bytearray(encode(sine(1.0, 16000), 16000))
    place = whole.index(b"data") + 4
    whole[place : place + 4] = struct.pack("<I", 0xFFFFFFFF)
    assert audio.decode(bytes(whole), source="pipe.wav").duration_s == pytest.approx(1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(encode, value):
    samples = sine(0.5, 16000)
    samples[100] = value
    with pytest.raises(InvalidSamplesError, match="NaN or infinite"):
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
