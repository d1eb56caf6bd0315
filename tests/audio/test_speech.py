import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soxr

from caspi import audio
from caspi.audio.speech import _stretches, find_speech

pytest.importorskip("onnxruntime")
pytest.importorskip("silero_vad")


@pytest.mark.parametrize("num_samples", [0, 1, 511, 80000])
def test_silence_holds_no_speech(num_samples):
    assert find_speech(np.zeros(num_samples, np.float32)) == []


def test_noise_and_tones_hold_no_speech():
    rng = np.random.default_rng(0)
    assert find_speech(0.05 * rng.normal(size=80000).astype(np.float32)) == []
    assert find_speech(0.3 * np.sin(np.arange(80000) * 0.2).astype(np.float32)) == []


def in_frames(*runs: tuple[float, int]) -> np.ndarray:
    return np.concatenate([np.full(length, probability, np.float32) for probability, length in runs])


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        (in_frames((0.1, 10), (0.9, 20), (0.1, 10)), [(10, 30)]),
        (in_frames((0.1, 10), (0.9, 7), (0.1, 10)), []),  # 224 ms
        (in_frames((0.9, 10), (0.1, 3), (0.9, 10), (0.1, 9)), [(0, 23)]),  # a pause of 96 ms
        (in_frames((0.9, 10), (0.1, 5), (0.9, 10), (0.1, 9)), [(0, 10), (15, 25)]),  # and of 160 ms
        (in_frames((0.9, 10), (0.4, 30), (0.9, 2), (0.1, 9)), [(0, 42)]),  # between the thresholds nothing ends
        (in_frames((0.4, 30)), []),  # and nothing begins
        (in_frames((0.1, 5), (0.9, 20)), [(5, 25)]),  # until the end
    ],
)
def test_two_thresholds_and_two_durations_make_stretches(probabilities, expected):
    found = list(_stretches(probabilities, len(probabilities) * 512))
    assert [(start / 512, end / 512) for start, end in found] == expected


def test_real_speech_is_found_where_its_words_are(material):
    folder = material("speech/formats")
    spoken = find_speech(audio.decode((folder / "deepspeech_smoke/LDC93S1.wav").read_bytes(), source="x").samples)
    assert len(spoken) == 1  # one sentence, read without a pause
    assert spoken[0] == (pytest.approx(0.2, abs=0.1), pytest.approx(2.9, abs=0.1))


def test_words_with_pauses_are_separate_stretches(material):
    folder = material("speech/yesno")
    row = json.loads((folder / "manifest.jsonl").read_text().splitlines()[0])
    spoken = find_speech(audio.decode((folder / row["audio"]).read_bytes(), source="x").samples)
    assert 5 <= len(spoken) <= 10  # eight times yes or no
    assert all(end - start > 0.2 for start, end in spoken)


def test_silence_around_a_voice_is_not_speech(material):
    folder = material("speech/formats")
    sentence = audio.decode((folder / "deepspeech_smoke/LDC93S1.wav").read_bytes(), source="x").samples
    quiet = np.zeros(16000 * 20, np.float32)
    (found,) = find_speech(np.concatenate([quiet, sentence, quiet]))
    assert found == (pytest.approx(20.2, abs=0.2), pytest.approx(22.9, abs=0.2))
    assert find_speech(np.concatenate([quiet, sentence, quiet])) == [found]  # nothing is carried over


def test_synthesized_speech_is_found_where_it_was_laid():
    pytest.importorskip("espeakng_loader")
    from caspi.synthesis.espeak import SAMPLE_RATE, Engine
    from caspi.synthesis.vocabulary import WORDS
    from caspi.synthesis.voices import TRAIN_VOICES

    voice = Engine().speak([word.phonemes for word in WORDS[:8]], TRAIN_VOICES[0]).samples
    voice = soxr.resample(voice.astype(np.float32) / np.abs(voice).max() / 2, SAMPLE_RATE, 16000)
    laid = np.zeros(16000 * 12, np.float32)
    laid[16000 * 5 : 16000 * 5 + len(voice)] = voice
    found = find_speech(laid + 0.0005 * np.random.default_rng(0).normal(size=len(laid)).astype(np.float32))
    assert found
    assert found[0][0] == pytest.approx(5, abs=0.3)
    assert found[-1][1] == pytest.approx(5 + len(voice) / 16000, abs=0.3)


def test_neither_torch_nor_the_package_is_imported():
    program = (
        f"import sys; sys.path.insert(0, {str(Path.cwd() / 'platform')!r})\n"
        "import numpy as np; from caspi.audio.speech import find_speech\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "find_speech(np.zeros(16000, np.float32))\n"
        "assert not {'torch', 'silero_vad'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
