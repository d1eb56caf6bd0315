"""What a language declares about itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from caspi.text.default import DefaultNormalizer
from caspi.text.normalizer import Normalizer


@dataclass(frozen=True, slots=True)
class Language:
    """A language that Caspi knows by name."""

    code: str  # ISO 639
    name: str  # in English, as Qwen3-ASR is told it: `language Hebrew<asr_text>`
    scripts: tuple[str, ...] = ("LATIN",)  # the words by which Unicode names the letters, see `script_share`
    normalizer: Normalizer = field(default_factory=DefaultNormalizer)
    styles: Mapping[str, Normalizer] = field(default_factory=dict)  # other people's, by the style's name
