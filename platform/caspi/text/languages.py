"""The languages, by ISO 639 code, and who normalizes each. One more normalizer is one file, and one line here."""

import difflib

from caspi.errors import RequestError
from caspi.text.default import DefaultNormalizer
from caspi.text.hebrew import HebrewNormalizer
from caspi.text.normalizer import Normalizer

# The thirty that Qwen3-ASR was trained on, as it writes them.
_KNOWN_TO_QWEN3_ASR = {
    "ar": "Arabic",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fa": "Persian",
    "fi": "Finnish",
    "fil": "Filipino",
    "fr": "French",
    "hi": "Hindi",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "mk": "Macedonian",
    "ms": "Malay",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sv": "Swedish",
    "th": "Thai",
    "tr": "Turkish",
    "vi": "Vietnamese",
    "yue": "Cantonese",
    "zh": "Chinese",
}

# What people teach it, named in the same way.
_TAUGHT = {"he": "Hebrew", "yi": "Yiddish"}

LANGUAGE_NAMES = dict(sorted((_KNOWN_TO_QWEN3_ASR | _TAUGHT).items()))
"""ISO 639 code -> the name that Qwen3-ASR is told: `language Hebrew<asr_text>`."""

_NORMALIZERS: dict[str, Normalizer] = {"he": HebrewNormalizer()}
_DEFAULT = DefaultNormalizer()


def language_name(code: str) -> str:
    """The English name of an ISO 639 code, as Qwen3-ASR writes it.

    Raises:
        RequestError: we do not know the code.
    """
    try:
        return LANGUAGE_NAMES[code]
    except KeyError:
        known = ", ".join(LANGUAGE_NAMES)
        near = _nearest(code)
        hint = f"; did you mean {near} ({LANGUAGE_NAMES[near]})?" if near else ""
        raise RequestError(f"language {code!r} is unknown; expected an ISO 639 code of {known}{hint}") from None


def language_code(code_or_name: str) -> str:
    """The ISO 639 code of `he`, `Hebrew` or `hebrew`: people and clients write either.

    Raises:
        RequestError: neither a code nor a name that we know.
    """
    wanted = code_or_name.strip().casefold()
    for code, name in LANGUAGE_NAMES.items():
        if wanted in (code, name.casefold()):
            return code
    known = ", ".join(f"{code} ({name})" for code, name in LANGUAGE_NAMES.items())
    raise RequestError(f"language {code_or_name!r} is unknown; known: {known}")


def normalizer(code: str) -> Normalizer:
    """The normalizer of a language, by ISO 639 code.

    Raises:
        RequestError: we do not know the code.
    """
    language_name(code)
    return _NORMALIZERS.get(code, _DEFAULT)


def _nearest(code: str) -> str | None:
    """The code that someone meant who wrote a name (`Hebrew`), a region (`he-IL`), three letters (`heb`) or a slip."""
    wanted = code.strip().lower()
    codes = {name.lower(): code for code, name in LANGUAGE_NAMES.items()} | {"iw": "he", "ji": "yi"}
    codes |= {code: code for code in LANGUAGE_NAMES}
    primary = wanted.replace("_", "-").partition("-")[0]
    if primary in codes:
        return codes[primary]
    near = difflib.get_close_matches(wanted, codes, n=1, cutoff=0.6) or difflib.get_close_matches(
        primary[:2], codes, n=1
    )
    return codes[near[0]] if near else None
