"""How recorded speech becomes a corpus: cutting, filters, splits, shards."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from caspi import text
from caspi.errors import RequestError
from caspi.recipe.section import Section
from caspi.recipe.sources import Source


class Splits(Section):
    """Which recordings are held out. By hash, so that a recording never moves when others are added."""

    validation: float = Field(0.05, ge=0, lt=1)
    """Share of recordings for validation during training."""

    test: float = Field(0.0, ge=0, lt=1)
    """Share of recordings for the final test, where a source brings no test split of its own."""

    test_speakers: tuple[str, ...] = ()
    """Speakers whose recordings all go to the test split, whatever else is said: voices that training never hears."""

    by: Literal["recording", "speaker"] = "recording"
    """What stays together. `speaker` falls back to the recording where no speaker is known."""

    seed: int = 42
    """Another seed draws another split."""

    @model_validator(mode="after")
    def _leave_something_to_train_on(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation={self.validation} and test={self.test} leave nothing to train on")
        return self


class Filters(Section):
    """What an utterance must be like to be kept. Each refusal is counted under its reason in rejected.parquet."""

    min_duration_s: float = Field(0.3, ge=0)
    """Shorter utterances are refused as `too_short`."""

    max_duration_s: float = Field(30.0, gt=0, le=1200)
    """Longer utterances are refused as `too_long`. Qwen3-ASR takes at most 1,200 s."""

    min_chars_per_s: float = Field(0.3, ge=0)
    """Fewer characters per second are refused as `too_few_characters`: most of the speech is not transcribed."""

    max_chars_per_s: float = Field(40.0, gt=0)
    """More characters per second are refused as `too_many_characters`: the transcript belongs to something longer."""

    min_quality_score: float = Field(0.0, ge=0, le=1)
    """Rows whose own `quality_score` is lower are refused as `low_quality_score`. Users take 0.8 on the Knesset."""

    refused_flags: tuple[str, ...] = ("skipped", "unintelligible", "foreign_language", "noisy", "multiple_speakers")
    """Flags of crowd-transcribe's volunteers that refuse a row, each under its own name."""

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        if self.min_duration_s >= self.max_duration_s:
            raise ValueError(f"min_duration_s={self.min_duration_s} is not below max_duration_s={self.max_duration_s}")
        if self.min_chars_per_s >= self.max_chars_per_s:
            raise ValueError(
                f"min_chars_per_s={self.min_chars_per_s} is not below max_chars_per_s={self.max_chars_per_s}"
            )
        return self


class Shards(Section):
    """How the corpus is cut into files."""

    max_duration_s: float = Field(7200.0, gt=0)
    """Audio per shard: at 80 MB an hour, two hours are about 160 MB."""

    seed: int = 42
    """Seed of the global shuffle."""


class Data(Section):
    """Recorded speech and its transcripts."""

    language: str = "he"
    """ISO 639 code. The name that Qwen3-ASR is told (Hebrew) follows from it."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Where speech comes from. Paths are relative to the recipe."""

    splits: Splits = Splits()
    filters: Filters = Filters()
    shards: Shards = Shards()

    @field_validator("language")
    @classmethod
    def _is_known(cls, code: str) -> str:
        try:
            text.language_name(code)
        except RequestError as error:
            raise ValueError(str(error)) from error
        return code
