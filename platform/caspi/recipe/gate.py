"""What a model must show before it takes the champion's place."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from caspi.recipe.section import Section

Rate = Annotated[float, Field(ge=0)]


class SliceBound(Section):
    """How good a model must be on one slice of the test set. Rates are fractions: 0.02 is two points."""

    max_wer: Rate | None = None
    """Refuse a WER above this."""

    max_increase: Rate | None = None
    """Refuse a WER above the champion's by more than this."""

    @model_validator(mode="after")
    def _something_is_bounded(self) -> Self:
        if self.max_wer is None and self.max_increase is None:
            raise ValueError("expected max_wer, max_increase or both")
        return self


class Gate(Section):
    """When `caspi promote` lets a model become champion. Rates are fractions: 0.01 is one point.

    It must not be worse than the champion on the same test set: neither in WER nor in what it invents. Worse is what
    is beyond chance, and what is above the champion's by more than a bound besides.
    """

    max_wer: Rate | None = None
    """Refuse a WER above this, whoever the champion is. Default: no bound."""

    max_wer_increase: Rate = 0.01
    """Refuse a WER above the champion's by more than this, even where the paired 95% interval is too wide to
    call it worse."""

    max_hallucination_increase: Rate = 0.05
    """The same for the share of clips without speech that are answered with words: one of the twenty that every model
    is asked about."""

    max_repetition_increase: Rate = 0.01
    """The same for the share of answers that repeat themselves."""

    max_failed: Rate = 0.0
    """Refuse where a larger share of the clips that the champion answered has no answer; no rate counts those. Without
    a champion, where a bound on WER holds: of the clips of the test set."""

    slices: dict[str, SliceBound] = Field({})
    """Slice of the report, such as `source=fleurs` or `duration=over 30 s` -> its bounds."""

    @property
    def has_absolute_bounds(self) -> bool:
        """Whether it asks something of a model where there is no champion."""
        return self.max_wer is not None or any(bound.max_wer is not None for bound in self.slices.values())
