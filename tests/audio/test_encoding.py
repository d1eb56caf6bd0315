import numpy as np
import pytest

from caspi import audio
from tests.audio.conftest import sine


def test_an_mp3_sounds_like_what_went_in():
    samples = sine(3.0, 16000)
    encoded = audio.encode_mp3(samples)
    decoded = audio.decode(encoded, source="player.mp3")
    assert decoded.codec == "mp3"
    assert decoded.duration_s == pytest.approx(3.0, abs=0.01)
    np.testing.assert_allclose(decoded.samples[4000:-4000], samples[4000 : len(decoded.samples) - 4000], atol=0.03)
    assert len(encoded) < 3 * 32000 / 4


def test_an_mp3_clips_and_never_wraps():
    decoded = audio.decode(audio.encode_mp3(sine(1.0, 16000, level=3.0)), source="loud.mp3")
    assert np.abs(decoded.samples).max() < 1.6
