"""What engines share: how long an answer may become, and how its tokens become a transcription."""

import math
from collections.abc import Sequence

from caspi import text
from caspi.inference.engine import Clip
from caspi.inference.transcription import Finish, TokenLogProb, Transcription
from caspi.model import Prompter
from caspi.recipe.sections import Inference

EXTRA_TOKENS = 16
"""The head `language Hebrew<asr_text>` and the end of turn, which no rate of speech accounts for."""


def language_name(language: str | None) -> str | None:
    """The English name that the prompt forces, of a code or a name; None forces nothing.

    Raises:
        RequestError: nobody knows the language.
    """
    return None if language is None else text.language_name(text.language_code(language))


def max_new_tokens(clip: Clip, limits: Inference) -> int:
    """How many tokens an answer may have, the end of turn included."""
    return EXTRA_TOKENS + math.ceil(clip.duration_s * limits.max_tokens_per_s)


def transcription(
    prompter: Prompter,
    clip: Clip,
    ids: Sequence[int],
    *,
    language: str | None,
    finish: Finish,
    log_probs: Sequence[float] | None,
    latency_s: float,
) -> Transcription:
    """The answer that generated tokens are.

    Args:
        ids: without the end of turn.
        language: the name that was forced.
        log_probs: of each token. None: nobody asked.
    """
    heard, written = prompter.parse(ids, language=language)
    pieces = None
    if log_probs is not None:
        texts = prompter.pieces(ids)
        likely = log_probs[len(ids) - len(texts) :]
        pieces = tuple(TokenLogProb(*each) for each in zip(texts, likely, strict=True))
    return Transcription(written, heard, clip.duration_s, latency_s, finish, pieces)
