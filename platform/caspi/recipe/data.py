"""How recorded speech becomes a corpus: cutting, filters, splits, shards."""

from typing import Literal, Self

from pydantic import Field, model_validator

from caspi.recipe.section import Section
from caspi.recipe.sources import Language, Source


class Decoding(Section):
    """Encoded audio to samples, within bounds."""

    max_recording_s: float = Field(10800.0, gt=0)
    """Longer recordings are refused as `audio_too_long`. It bounds memory: a second takes 64 kB while it is decoded."""

    timeout_s: float = Field(300.0, gt=0)
    """A recording whose decoder takes longer is refused as `decoder_timeout`."""


class Cutting(Section):
    """How recordings with segments (time tokens, Kaldi's `segments`, NeMo's `offset`) become utterances."""

    min_segment_s: float = Field(0.5, ge=0)
    """A shorter segment is joined to the neighbour that is nearest, if one is within `max_gap_s`."""

    join_up_to_s: float | None = Field(None, gt=0)
    """Join neighbouring segments of one speaker up to so many seconds, 30 or 120 for long-form training. Default: each
    segment is an utterance."""

    max_gap_s: float = Field(1.0, ge=0)
    """Segments farther apart than this are never joined: who knows what was said between them."""

    trim_silence: bool = False
    """Cut what lies before the first and behind the last speech, by Silero's voice activity detection."""

    trim_margin_s: float = Field(0.2, ge=0)
    """What is left of the silence on each side."""

    voice_activity: bool = False
    """Measure `speech_s`, the seconds with speech, by the same detection. It costs about as much as all the rest."""


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

    min_script_share: float = Field(0.5, ge=0, le=1)
    """Texts with a smaller share of letters in the language's own script are refused as `wrong_script`."""

    min_level_dbfs: float = Field(-60.0, le=0)
    """Utterances whose mean level is below this are refused as `silent`."""

    max_clipped_share: float = Field(0.1, gt=0, le=1)
    """Utterances with a larger share of samples at full scale are refused as `clipped`."""

    min_snr_db: float | None = None
    """Utterances with a lower estimated signal-to-noise ratio are refused as `low_snr`. Default: kept, and measured."""

    min_speech_share: float = Field(0.0, ge=0, le=1)
    """Utterances with a smaller share of speech, by voice activity detection, are refused as `little_speech`."""

    refuse_empty_text: bool = True
    """Refuse an utterance whose text holds no letter and no digit as `empty_text`. False is for test sets: what a model
    writes there is inserted. A row without any transcript is refused nevertheless."""

    refuse_duplicate_audio: bool = True
    """Refuse an utterance whose samples came before: `duplicate` with the same text, `duplicate_audio` with another."""

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
    """Audio per shard at most: at 80 MB an hour, two hours are about 160 MB."""

    by: Literal["utterance", "recording"] = "utterance"
    """What is shuffled. `recording` keeps the utterances of a recording together in the train split, in the order of
    their source: `training.joining` needs that."""

    seed: int = 42
    """Seed of the global shuffle."""


class EvaluationSets(Section):
    """Sets that models will be judged by, so that nothing of them is trained on."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Where they are: any kind of source. They do not become part of the corpus."""

    match: tuple[Literal["id", "audio"], ...] = Field(("id", "audio"), min_length=1)
    """What makes a row one of theirs, and refused as `in_evaluation_set`: the id of the row or of its recording, or
    the very samples of the recording or of an utterance."""


class Meaning(Section):
    """A model that listens to every utterance, to find transcripts that belong to something else."""

    model: str
    """A folder, a Hub id, `models:/NAME@alias` or `runs:/ID/model`: any model that `caspi evaluate` takes."""

    max_wer: float = Field(0.75, gt=0)
    """Utterances where the model's words differ by more are refused as `disagrees_with_model`."""

    refuse: bool = True
    """False keeps them, with `judge_wer` in the shards to sort by."""


class Data(Section):
    """Recorded speech and its transcripts."""

    language: Language = "he"
    """ISO 639 code. The name that Qwen3-ASR is told (Hebrew) follows from it. A source may say another."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Where speech comes from. Paths are relative to the recipe."""

    transcripts: Literal["normalized", "as_written"] = "normalized"
    """`normalized`: what a model should learn to write. `as_written`: as the source has it, for test sets that others
    score by a normalization of their own."""

    decoding: Decoding = Decoding()
    cutting: Cutting = Cutting()
    filters: Filters = Filters()
    meaning: Meaning | None = None
    evaluation_sets: EvaluationSets | None = None
    splits: Splits = Splits()
    shards: Shards = Shards()

    @model_validator(mode="after")
    def _joined_utterances_are_not_too_long(self) -> Self:
        if (self.cutting.join_up_to_s or 0) > self.filters.max_duration_s:
            raise ValueError(
                f"cutting.join_up_to_s={self.cutting.join_up_to_s} is above "
                f"filters.max_duration_s={self.filters.max_duration_s}; raise that, or join less"
            )
        return self

    def for_source(self, number: int) -> "Data":
        """The settings that hold for the rows of one source: `language` is its own, where it says one."""
        return self.model_copy(update={"language": self.sources[number].language or self.language})
