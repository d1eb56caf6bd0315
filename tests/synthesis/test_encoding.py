import io
import random

import numpy as np
import pytest
import soundfile

from caspi import audio
from caspi.synthesis.encoding import Encoding, draw, encode, fix_ogg_serial

TONE = 0.3 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)


@pytest.mark.parametrize("extension", ["mp3", "ogg", "flac", "wav"])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_the_same_samples_give_the_same_bytes_and_decode_to_the_same_length(extension, num_channels):
    chosen = Encoding(extension, 24000, num_channels)
    encoded = encode(TONE, 22050, chosen)
    assert encode(TONE, 22050, chosen) == encoded
    assert audio.decode(encoded, source=extension).duration_s == pytest.approx(1.0, abs=0.002)
    info = soundfile.info(io.BytesIO(encoded))
    assert (info.samplerate, info.channels) == (24000, num_channels)


def test_an_ogg_stream_with_its_own_serial_number_written_again_is_unchanged():
    file = io.BytesIO()
    soundfile.write(file, TONE, 24000, format="OGG", subtype="OPUS")
    stream = file.getvalue()
    serial = int.from_bytes(stream[14:18], "little")
    assert fix_ogg_serial(stream, serial) == stream  # the checksums are libsndfile's own
    assert fix_ogg_serial(stream, serial ^ 1) != stream


def test_all_drawn_encodings_can_be_written_and_cover_what_collections_mix():
    rng = random.Random(0)
    drawn = {draw(rng) for _ in range(400)}
    assert {encoding.extension for encoding in drawn} == {"mp3", "ogg", "flac", "wav"}
    assert {encoding.sample_rate for encoding in drawn} == {8000, 16000, 22050, 24000, 44100, 48000}
    assert {encoding.num_channels for encoding in drawn} == {1, 2}
    assert {encoding.sample_rate for encoding in drawn if encoding.extension == "ogg"} <= {8000, 16000, 24000, 48000}
    for encoding in drawn:
        assert encode(TONE[:4000], 22050, encoding)
