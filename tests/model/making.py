"""Clips and batches for the tests of the model."""

from collections.abc import Sequence

import numpy as np

from caspi.model import Batch, Example, Prompter, collate, num_audio_tokens
from caspi.recipe.sections import Collation


def noise(seconds: float, *, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(seconds * 16000)) * 0.1).astype(np.float32)


def batch_of(
    prompter: Prompter,
    clips: Sequence[np.ndarray],
    texts: Sequence[str],
    *,
    languages: Sequence[str] | None = None,
    contexts: Sequence[str] | None = None,
    collation: Collation = "bucketed",
) -> Batch:
    examples: list[Example] = [
        prompter.example(text, num_audio_tokens=num_audio_tokens(len(samples)), language=language, context=context)
        for samples, text, language, context in zip(
            clips, texts, languages or ["Hebrew"] * len(clips), contexts or [""] * len(clips), strict=True
        )
    ]
    return collate(examples, clips, pad_id=prompter.pad_id, collation=collation)
