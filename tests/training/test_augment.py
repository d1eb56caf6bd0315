"""Augmentation, by what can be heard: spectra, ratios, delays; and that random numbers alone decide."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy import signal

from caspi.audio.nonspeech import pink, white
from caspi.errors import RecipeError, SourceError, TrainingError
from caspi.recipe import load_recipe
from caspi.recipe.augmentation import Augmentation, BandLimit, Codec, Noise, Reverberation
from caspi.training.augment import augment_samples, check_recordings
from caspi.training.augmentation.channel import code, limit_band
from caspi.training.augmentation.noise import add_noise, rms
from caspi.training.augmentation.recordings import open_recordings
from caspi.training.augmentation.room import make_response, reverberate
from caspi.training.draws import draw

RATE = 16000


def speech_like(seconds: float = 3.0, seed: int = 0) -> np.ndarray:
    """Syllables: pulses 110 times a second through a vowel's resonances, four times a second louder and softer."""
    random = np.random.default_rng(seed)
    num_samples = int(seconds * RATE)
    pulses = np.zeros(num_samples)
    pulses[:: RATE // 110] = 1.0
    pulses += 0.02 * random.standard_normal(num_samples)
    for hertz in (500, 1500, 2500):
        b, a = signal.iirpeak(hertz, 5, fs=RATE)
        pulses = pulses + 3 * signal.lfilter(b, a, pulses)
    loudness = 0.5 - 0.5 * np.cos(2 * np.pi * 4 * np.arange(num_samples) / RATE)
    return (0.5 * pulses * loudness / np.abs(pulses).max()).astype(np.float32)


def other_speech(random: np.random.Generator) -> np.ndarray:
    return speech_like(1.0, seed=int(random.integers(1000)))


def no_speech(random: np.random.Generator) -> np.ndarray:
    raise AssertionError("only babble needs other utterances")


def augmented(settings: Augmentation, seed: int = 1, samples: np.ndarray | None = None) -> np.ndarray:
    return augment_samples(
        speech_like() if samples is None else samples, settings, draw(seed, 0, "utterance"), other_speech
    )


def energy_db(samples: np.ndarray, low_hz: float, high_hz: float) -> float:
    frequencies, power = signal.welch(samples, RATE, nperseg=1024)
    return float(10 * np.log10(power[(frequencies >= low_hz) & (frequencies < high_hz)].sum() + 1e-20))


def delay(before: np.ndarray, after: np.ndarray) -> int:
    """By how many samples `after` comes later, where the two are most alike."""
    width = min(len(before), len(after))
    likeness = signal.correlate(after[:width], before[:width], method="fft")
    return int(np.argmax(likeness)) - (width - 1)


ALL = Augmentation(
    speed=0.1,
    max_shift_s=0.2,
    reverberation=Reverberation(share=0.5),
    noise=Noise(share=0.5),
    gain_db=6,
    band_limit=BandLimit(share=0.5),
    codec=Codec(share=0.5),
)
EACH = {
    "speed": Augmentation(speed=0.1),
    "shift": Augmentation(max_shift_s=0.5),
    "reverberation": Augmentation(reverberation=Reverberation(share=1)),
    "gain": Augmentation(gain_db=10),
    **{f"{kind} noise": Augmentation(noise=Noise(share=1, kinds=[kind])) for kind in ("white", "pink", "babble")},
    "band limit": Augmentation(band_limit=BandLimit(share=1)),
    **{kind: Augmentation(codec=Codec(share=1, kinds=[kind])) for kind in ("opus", "mp3", "amr", "mu_law")},
    "all": ALL,
}


@pytest.mark.parametrize("settings", EACH.values(), ids=EACH)
def test_the_same_random_numbers_do_the_same(settings: Augmentation):
    np.testing.assert_array_equal(augmented(settings), augmented(settings))


@pytest.mark.parametrize("name", [name for name in EACH if name != "mu_law"])  # which is the same for everybody
def test_other_random_numbers_do_something_else(name: str):
    sounds = {augmented(EACH[name], seed).tobytes() for seed in range(6)}
    assert len(sounds) >= 3  # bands and the rates of AMR are few


def test_speed_changes_the_length_by_at_most_its_bound():
    lengths = [len(augmented(Augmentation(speed=0.1), seed, speech_like(1.0))) for seed in range(50)]
    assert 16000 / 1.1 - 2 <= min(lengths) < max(lengths) <= 16000 / 0.9 + 2


@pytest.mark.parametrize("settings", EACH.values(), ids=EACH)
@pytest.mark.parametrize("num_samples", [1, 100, 1601, 24000])
def test_only_speed_and_shift_change_the_length(settings: Augmentation, num_samples: int):
    for seed in range(4):
        changed = augmented(settings, seed, speech_like()[:num_samples])
        assert changed.dtype == np.float32 and np.isfinite(changed).all() and abs(changed).max() <= 1
        if not (settings.speed or settings.max_shift_s):
            assert len(changed) == num_samples


@pytest.mark.parametrize("settings", EACH.values(), ids=EACH)
def test_silence_stays_next_to_silent(settings: Augmentation):
    assert abs(augmented(settings, samples=np.zeros(16000, np.float32))).max() < 1e-3


def test_nothing_is_changed_unless_asked_for():
    unchanged = augment_samples(speech_like(), Augmentation(), draw(1, 0, "utterance"), no_speech)
    np.testing.assert_array_equal(unchanged, speech_like())


SHARES = {
    "speed": Augmentation(speed=0.1, speed_share=0.3),
    "gain": Augmentation(gain_db=6, gain_share=0.3),
    "noise": Augmentation(noise=Noise(share=0.3, kinds=["white"])),
    "reverberation": Augmentation(reverberation=Reverberation(share=0.3)),
    "band limit": Augmentation(band_limit=BandLimit(share=0.3)),
    "codec": Augmentation(codec=Codec(share=0.3, kinds=["mu_law"])),
}


@pytest.mark.parametrize("settings", SHARES.values(), ids=SHARES)
def test_each_is_done_to_its_share_of_utterances(settings: Augmentation):
    short = speech_like(0.1)
    changed = [not np.array_equal(augmented(settings, seed, short), short) for seed in range(400)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.08)


# --- noise ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["white", "pink", "babble", "recorded"])
def test_noise_has_the_ratio_asked_for(kind: str, tmp_path: Path):
    soundfile.write(tmp_path / "fan.wav", 0.1 * np.random.default_rng(0).standard_normal(8000), RATE)
    folder = str(tmp_path) if kind == "recorded" else None
    settings = Noise(share=1, snr_db=(12, 12), kinds=[kind], recordings=folder)
    noisy = add_noise(speech_like(), settings, draw(1, 0, "a"), other_speech)
    ratio_db = 20 * np.log10(rms(speech_like()) / rms(noisy - speech_like()))
    assert ratio_db == pytest.approx(12, abs=0.01)


def test_ratios_lie_between_the_two_numbers():
    settings = Noise(share=1, snr_db=(5, 25), kinds=["white"])
    speech = speech_like(0.5)
    ratios_db = [
        20 * np.log10(rms(speech) / rms(add_noise(speech, settings, draw(seed, 0, "a"), no_speech) - speech))
        for seed in range(200)
    ]
    assert 5 <= min(ratios_db) < 7 and 23 < max(ratios_db) <= 25


def test_white_noise_is_even_and_pink_noise_falls():
    random = np.random.default_rng(0)
    sounds = [white(10 * RATE, random), pink(10 * RATE, random)]
    falls_db = [energy_db(sound, 250, 500) - energy_db(sound, 4000, 8000) for sound in sounds]
    assert falls_db[0] == pytest.approx(-12, abs=0.5)  # a sixteenth of the width
    assert falls_db[1] == pytest.approx(0, abs=0.5)  # equal power in each octave


def test_babble_is_several_other_utterances():
    asked = []

    def talker(random: np.random.Generator) -> np.ndarray:
        asked.append(1)
        return other_speech(random)

    for seed in range(40):
        add_noise(speech_like(1.0), Noise(share=1, kinds=["babble"]), draw(seed, 0, "a"), talker)
    assert 40 * 3 < len(asked) < 40 * 7


def test_recorded_noise_is_found_in_folders_below_and_goes_round(tmp_path: Path):
    (tmp_path / "street").mkdir()
    hum = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(4000) / RATE)
    soundfile.write(tmp_path / "street" / "hum.flac", hum, RATE)
    (tmp_path / "README.txt").write_text("not a sound")
    settings = Noise(share=1, snr_db=(0, 0), kinds=["recorded"], recordings=str(tmp_path))
    noise = add_noise(speech_like(), settings, draw(1, 0, "a"), no_speech) - speech_like()
    assert energy_db(noise, 900, 1100) - energy_db(noise, 0, 8000) > -0.5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rooms").mkdir()
    return tmp_path / "rooms"


def test_a_folder_without_recordings_is_refused_before_a_run(folder: Path):
    with pytest.raises(SourceError, match="rooms"):
        check_recordings(Augmentation(reverberation=Reverberation(share=1, rooms=str(folder))))


def test_a_damaged_recording_is_named(folder: Path):
    (folder / "broken.wav").write_bytes(b"RIFF and nothing else")
    with pytest.raises(TrainingError, match=r"broken\.wav: cannot be used for augmentation"):
        open_recordings(str(folder)).draw(draw(1, 0, "a"))


# --- reverberation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rt60_s", [0.2, 0.5, 1.0])
def test_a_room_falls_by_60_db_in_its_time(rt60_s: float):
    """Measured as ISO 3382 does, by Schroeder's backward integration, below the crossover."""
    response = signal.sosfilt(
        signal.butter(4, 1500, fs=RATE, output="sos"), make_response(rt60_s, -20, draw(1, 0, "a"))
    )
    left_db = 10 * np.log10(np.cumsum(response[::-1] ** 2)[::-1] / np.sum(response**2))
    places = np.flatnonzero((left_db < -5) & (left_db > -25))
    fall_db_per_s = np.polyfit(places / RATE, left_db[places], 1)[0]
    assert -60 / fall_db_per_s == pytest.approx(rt60_s, rel=0.15)


@pytest.mark.parametrize("direct_db", [-3, 0, 15])
def test_the_direct_sound_has_the_share_asked_for(direct_db: float):
    response = make_response(0.4, direct_db, draw(1, 0, "a"))
    assert 10 * np.log10(response[0] ** 2 / np.sum(response[1:] ** 2)) == pytest.approx(direct_db)


def test_a_room_sounds_on_in_pauses_and_is_as_loud():
    burst = speech_like(1.0)
    burst[8000:] = 0
    heard = reverberate(burst, Reverberation(share=1, rt60_s=(0.6, 0.6), direct_db=(0, 0)), draw(1, 0, "a"))
    assert rms(heard[8100:10000]) > 0.05 * rms(heard[:8000])
    assert rms(heard) == pytest.approx(rms(burst))


def test_a_recorded_room_moves_nothing(folder: Path):
    response = np.zeros(4000)
    response[700], response[1500] = 0.5, 0.25  # the microphone stood two metres away, and the file begins before
    soundfile.write(folder / "room.wav", response, RATE, subtype="FLOAT")
    heard = reverberate(speech_like(), Reverberation(share=1, rooms=str(folder)), draw(1, 0, "a"))
    expected = speech_like().astype(np.float64)
    expected[800:] += 0.5 * speech_like()[:-800]
    np.testing.assert_allclose(heard / rms(heard), expected / rms(expected), atol=1e-3)


# --- lines and codecs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("band_hz", [(300, 3400), (0, 4000), (1000, 8000)])
def test_a_band_remains_as_it_was_and_the_rest_is_gone(band_hz: tuple[float, float]):
    noise = 0.1 * np.random.default_rng(0).standard_normal(5 * RATE)
    limited = limit_band(noise, BandLimit(share=1, bands_hz=[band_hz]), draw(1, 0, "a"))
    low_hz, high_hz = band_hz
    inside = max(low_hz + 150, 100), min(high_hz, 8000) - 150
    assert energy_db(limited, *inside) == pytest.approx(energy_db(noise, *inside), abs=0.2)
    for outside in ((0, low_hz - 150), (high_hz + 150, 8000)):
        if outside[1] > outside[0]:
            assert energy_db(limited, *outside) < energy_db(noise, *outside) - 30


def test_a_band_limit_moves_nothing():
    limited = limit_band(speech_like(), BandLimit(share=1, bands_hz=[(300, 3400)]), draw(1, 0, "a"))
    assert delay(speech_like(), limited) == 0


KINDS = ["opus", "mp3", "amr", "mu_law"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_codec_loses_something_and_moves_nothing(kind: str):
    speech = speech_like()
    coded = code(speech, Codec(share=1, kinds=[kind]), draw(1, 0, "a"))
    assert len(coded) == len(speech)
    assert abs(delay(speech, coded)) <= 2
    likeness = np.corrcoef(speech, coded)[0, 1]
    assert 0.6 < likeness < 0.9999


@pytest.mark.parametrize("kind", KINDS)
def test_a_codec_cuts_nothing_off_at_the_end(kind: str):
    speech = np.concatenate([np.zeros(20000), speech_like(0.25)[: RATE // 8 + 100]]).astype(np.float32)
    coded = code(speech, Codec(share=1, kinds=[kind]), draw(1, 0, "a"))
    assert rms(coded[-400:]) > 0.4 * rms(speech[-400:])


@pytest.mark.parametrize("kind", ["amr", "mu_law"])
def test_telephone_codecs_have_nothing_above_4_khz(kind: str):
    noise = (0.1 * np.random.default_rng(0).standard_normal(2 * RATE)).astype(np.float32)
    coded = code(noise, Codec(share=1, kinds=[kind]), draw(1, 0, "a"))
    assert energy_db(coded, 4300, 8000) < energy_db(coded, 300, 3400) - 40


@pytest.mark.parametrize(("kind", "low", "high"), [("opus", 6, 64), ("mp3", 16, 64), ("amr", 4.75, 12.2)])
def test_a_lower_bit_rate_loses_more(kind: str, low: float, high: float):
    speech = speech_like()

    def distance_db(kbps: float) -> float:
        """How far the spectrum's shape is from the original, frame by frame, over what is audible."""
        coded = code(speech, Codec(share=1, kinds=[kind], **{f"{kind}_kbps": (kbps, kbps)}), draw(1, 0, "a"))
        ours, theirs = (np.abs(signal.stft(each, RATE, nperseg=512)[2]) for each in (speech, coded))
        heard = ours > ours.max() / 1000
        return float(np.abs(20 * np.log10((theirs[heard] + 1e-6) / (ours[heard] + 1e-6))).mean())

    assert distance_db(low) > distance_db(high)


# --- recipes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("noise={share: 1, kinds: [recorded]}", "a folder of recordings go together"),
        ("noise={share: 1, kinds: [pinc]}", "input should be 'white', 'pink', 'babble' or 'recorded'"),
        ("noise.snr_db=[20, 10]", "expected the smaller number first"),
        ("reverberation.rt60_s=[0, 1]", "expected seconds above 0"),
        ("band_limit.bands_hz=[[3400, 300]]", r"expected \[LOW, HIGH\] in Hz"),
        ("codec.opus_kbps=[1, 24]", "opus_kbps: found .* expected kbit/s from 6 to 256"),
    ],
)
def test_a_recipe_that_cannot_be_is_explained(key: str, message: str, tmp_path: Path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("data: {sources: [{kind: folder, path: speech}]}")
    with pytest.raises(
        RecipeError, match=rf"training\.augmentation\.{key.partition('=')[0].partition('.')[0]}.*{message}"
    ):
        load_recipe(recipe, overrides=[f"training.augmentation.{key}"])


def test_folders_are_relative_to_the_recipe(tmp_path: Path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "data: {sources: [{kind: folder, path: speech}]}\n"
        "training: {augmentation: {noise: {kinds: [recorded], recordings: noises}, reverberation: {rooms: s3://a/b}}}"
    )
    augmentation = load_recipe(recipe).training.augmentation
    assert augmentation.noise.recordings == str(tmp_path / "noises")
    assert augmentation.reverberation.rooms == "s3://a/b"
