"""The recipe's models of how weights learn: which of them, how fast, through what, and what becomes of them."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from caspi.recipe.section import Section

Part = Literal["encoder", "projector", "decoder"]
"""Of a Qwen3-ASR: what hears, what brings that into the decoder's space, what writes (the embedding included)."""

PARTS: tuple[Part, ...] = ("encoder", "projector", "decoder")

LayerRange = bool | tuple[int, int]


class GradientCheckpointing(Section):
    """Which layers recompute their activations in the backward pass. `true` is short for all of both parts."""

    encoder: LayerRange = False
    """`true`, `false`, or `[FIRST, END]`: from layer FIRST, counted from 0, up to the one before END."""

    decoder: LayerRange = False
    """Likewise."""

    @model_validator(mode="before")
    @classmethod
    def _all_or_none(cls, value: Any) -> Any:
        return {"encoder": value, "decoder": value} if isinstance(value, bool) else value

    @field_validator("encoder", "decoder", mode="before")
    @classmethod
    def _is_a_range(cls, value: Any) -> Any:
        match value:
            case bool():
                return value
            case [int(first), int(end)] if 0 <= first < end:
                return first, end
        raise ValueError(f"found {value!r}; expected true, false or [FIRST, END], for instance [0, 14]")


class Lora(Section):
    """Low-rank adapters (arXiv 2106.09685) beside every linear layer: they alone are trained, and merged at the end."""

    rank: int = Field(16, ge=1)
    """Of each adapter: a layer from `a` to `b` numbers gets `rank * (a + b)` weights."""

    alpha: float = Field(32.0, gt=0)
    """What adapters add is multiplied by `alpha / rank`."""

    parts: tuple[Part, ...] = Field(PARTS, min_length=1)
    """The parts of the model that get adapters."""


class Rates(Section):
    """Learning rates of parts and layers. Schedule and warm-up hold for all."""

    encoder: float = Field(1.0, gt=0)
    """Rate of the last layer, as a share of `learning_rate`."""

    projector: float = Field(1.0, gt=0)
    """Likewise; it has one rate."""

    decoder: float = Field(1.0, gt=0)
    """Likewise."""

    layer_decay: float = Field(1.0, gt=0, le=1)
    """Each layer of encoder and decoder learns at so much of the rate of the layer above it, and what is below the
    first layer (convolutions, embedding) at so much of the first layer's."""


class Ema(Section):
    """An exponential moving average of the trained weights: what is judged and kept, while training goes on without."""

    decay: float = Field(0.999, gt=0, lt=1)
    """The average's own share at each step. After `n` steps it is at most `(1 + n) / (10 + n)`, so that an early
    average does not stick to the start."""
