"""The recipe's models of what is done to training audio: each change with the share of utterances that get it."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from caspi.recipe.section import Section

NoiseKind = Literal["white", "pink", "babble", "recorded"]
CodecKind = Literal["opus", "mp3", "amr", "mu_law"]
Range = tuple[float, float]


def _in_order(value: Range) -> Range:
    if value[0] > value[1]:
        raise ValueError(f"found {list(value)}; expected the smaller number first")
    return value


class Noise(Section):
    """Noise over the speech."""

    share: float = Field(0.0, ge=0, le=1)
    """Share of utterances."""

    snr_db: Range = (10.0, 40.0)
    """Signal-to-noise ratio, over the whole utterance, drawn between the two."""

    kinds: tuple[NoiseKind, ...] = Field(("white", "pink", "babble"), min_length=1)
    """Which one it is, each as often as the others: `babble` is three to seven other utterances at once, `recorded`
    comes from `recordings`."""

    recordings: str | None = None
    """For `recorded`: a folder of noise in any audio format, with the folders in it, relative to the recipe; or a URL.
    Of each file the first minute is used."""

    _in_order = field_validator("snr_db")(_in_order)

    @model_validator(mode="after")
    def _recordings_are_named(self) -> Self:
        if ("recorded" in self.kinds) != (self.recordings is not None):
            raise ValueError(
                f"kinds={list(self.kinds)} with recordings={self.recordings}; "
                "`recorded` among kinds and a folder of recordings go together"
            )
        return self


class Reverberation(Section):
    """The sound of a room. What is heard directly stays where it was, and the utterance as long as it was."""

    share: float = Field(0.0, ge=0, le=1)
    """Share of utterances."""

    rt60_s: Range = (0.1, 0.8)
    """Time in which the sound of the room falls by 60 dB: a furnished room 0.3 to 0.5, a hall over 1."""

    direct_db: Range = (-3.0, 15.0)
    """Energy of what is heard directly over that of the room: low far away from the microphone."""

    rooms: str | None = None
    """A folder of recorded room impulse responses, or a URL, instead of rooms that are made up; `rt60_s` and
    `direct_db` do not matter then."""

    _in_order = field_validator("rt60_s", "direct_db")(_in_order)

    @field_validator("rt60_s")
    @classmethod
    def _is_a_time(cls, value: Range) -> Range:
        if not 0 < value[0] <= value[1] <= 5:
            raise ValueError(f"found {list(value)}; expected seconds above 0 and up to 5")
        return value


class BandLimit(Section):
    """Nothing below and above some frequencies, as after telephones and cheap microphones."""

    share: float = Field(0.0, ge=0, le=1)
    """Share of utterances."""

    bands_hz: tuple[Range, ...] = Field(((300.0, 3400.0), (50.0, 4000.0), (100.0, 6000.0)), min_length=1)
    """What remains, [LOW, HIGH]; each as often as the others. The first default is the telephone's."""

    @field_validator("bands_hz")
    @classmethod
    def _are_bands(cls, value: tuple[Range, ...]) -> tuple[Range, ...]:
        for low, high in value:
            if not 0 <= low < high <= 8000 or (low, high) == (0, 8000):
                raise ValueError(f"found [{low:g}, {high:g}]; expected [LOW, HIGH] in Hz, a part of 0 to 8000")
        return value


class Codec(Section):
    """Encoding and decoding by a codec that loses something. No sound is moved in time."""

    share: float = Field(0.0, ge=0, le=1)
    """Share of utterances."""

    kinds: tuple[CodecKind, ...] = Field(("opus", "mp3", "amr", "mu_law"), min_length=1)
    """Which one it is, each as often as the others. `opus`: messengers and calls over the internet; `mp3`: old
    archives; `amr`: mobile phones, at 12.2 kbit/s the codec of GSM; `mu_law`: landlines. The last two work at 8 kHz."""

    opus_kbps: Range = (6.0, 24.0)
    """Bit rate, drawn between the two."""

    mp3_kbps: Range = (16.0, 48.0)
    """Likewise."""

    amr_kbps: Range = (4.75, 12.2)
    """Likewise; the nearest of the codec's eight rates is taken."""

    _in_order = field_validator("opus_kbps", "mp3_kbps", "amr_kbps")(_in_order)

    @model_validator(mode="after")
    def _rates_are_the_codecs(self) -> Self:
        for name, lowest, highest in (("opus_kbps", 6, 256), ("mp3_kbps", 8, 160), ("amr_kbps", 4.75, 12.2)):
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise ValueError(f"{name}: found [{low:g}, {high:g}]; expected kbit/s from {lowest:g} to {highest:g}")
        return self


class Augmentation(Section):
    """What is done to training audio, drawn afresh from (seed, epoch, utterance): a resumed run repeats it."""

    speed: float = Field(0.0, ge=0, lt=0.5)
    """Resample by a factor drawn from 1 - speed to 1 + speed. Pitch moves along."""

    speed_share: float = Field(1.0, ge=0, le=1)
    """Share of utterances whose speed changes."""

    max_shift_s: float = Field(0.0, ge=0, le=2)
    """Silence put before the speech, up to so many seconds."""

    reverberation: Reverberation = Reverberation()

    noise: Noise = Noise()

    gain_db: float = Field(0.0, ge=0)
    """Change the level by up to so many decibels."""

    gain_share: float = Field(1.0, ge=0, le=1)
    """Share of utterances whose level changes."""

    band_limit: BandLimit = BandLimit()

    codec: Codec = Codec()

    time_masks: int = Field(0, ge=0)
    """SpecAugment: spans of time set to silence."""

    time_mask_share: float = Field(0.05, ge=0, le=0.5)
    """SpecAugment: the longest time mask, as a share of the utterance."""

    frequency_masks: int = Field(0, ge=0)
    """SpecAugment: bands set to silence."""

    frequency_mask_bins: int = Field(20, ge=0, le=128)
    """SpecAugment: the widest band, in mel bins of 128."""


class Joining(Section):
    """Utterances that follow each other in a recording, heard as one clip: practice for long recordings.

    Needs a corpus that keeps recordings together: `data.shards.by: recording`.
    """

    share: float = Field(0.0, ge=0, le=1)
    """Share of the clips so joined; of the others each utterance is heard alone. Drawn afresh in each epoch."""

    target_s: Range = (30.0, 120.0)
    """A clip is as long as fits into a length drawn between the two; shorter where nothing follows."""

    max_gap_s: float = Field(2.0, ge=0)
    """Longest pause between two neighbours, which the clip keeps. What is further apart is not joined."""

    _in_order = field_validator("target_s")(_in_order)
