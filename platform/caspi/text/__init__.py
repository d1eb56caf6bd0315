"""Text of each language: what the model learns to write, and what WER compares."""

from caspi.errors import RequestError

# The names that Qwen3-ASR is told, `language Hebrew<asr_text>`: its own thirty, and those that people teach it.
LANGUAGE_NAMES = {"he": "Hebrew", "en": "English"}


def language_name(code: str) -> str:
    """The English name of an ISO 639 code, as Qwen3-ASR writes it.

    Raises:
        RequestError: we do not know the code.
    """
    try:
        return LANGUAGE_NAMES[code]
    except KeyError:
        raise RequestError(f"language {code!r} is unknown; known: {', '.join(sorted(LANGUAGE_NAMES))}") from None
