"""Who speaks. Training and test voices share variants and lie in the same ranges, but no combination is shared."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Voice:
    """One eSpeak voice: a variant of the Hebrew one, at a pitch and a rate."""

    variant: str
    pitch: int
    """eSpeak's 0 to 99; 50 is the variant's own."""

    rate: int
    """Words per minute, as eSpeak counts them."""

    @property
    def name(self) -> str:
        """Unique among voices: `m3-p50-r165`."""
        return f"{self.variant}-p{self.pitch}-r{self.rate}"


# Variants whose consonants stay clear: no whisper, no robot. None with `breath` in its definition (f2, f3, f5): that
# noise comes out differently in every process, and a corpus is to be reproducible.
VARIANTS = ("m1", "m3", "m4", "m6", "m7", "f1", "f4", "steph", "adam", "benjamin", "linda", "max")

_TRAIN_PITCHES = (35, 50, 65)
_TRAIN_RATES = (145, 160, 175)

TRAIN_VOICES: tuple[Voice, ...] = tuple(
    Voice(variant, pitch, _TRAIN_RATES[(number + band) % 3])
    for number, variant in enumerate(VARIANTS)
    for band, pitch in enumerate(_TRAIN_PITCHES)
)

# Between the pitches and the rates of training: a new voice, not a new kind of voice.
TEST_VOICES: tuple[Voice, ...] = tuple(
    Voice(variant, (42, 58)[number % 2], (152, 168)[number // 2 % 2]) for number, variant in enumerate(VARIANTS[:8])
)
