"""Every language by its ISO 639 code: what it is called and who normalizes it."""

import difflib

from caspi.errors import RequestError
from caspi.text import languages
from caspi.text.language import Language
from caspi.text.normalizer import Normalizer
from caspi.text.qwen3_asr import KNOWN_LANGUAGES

STRICT = "strict"

_LANGUAGES = dict(sorted(({each.code: each for each in KNOWN_LANGUAGES} | languages.discover()).items()))

LANGUAGE_NAMES = {code: each.name for code, each in _LANGUAGES.items()}
"""ISO 639 code -> the name that Qwen3-ASR is told: `language Hebrew<asr_text>`."""


def find_language(code: str) -> Language:
    """The language of an ISO 639 code.

    Raises:
        RequestError: we do not know the code.
    """
    try:
        return _LANGUAGES[code]
    except KeyError:
        known = ", ".join(LANGUAGE_NAMES)
        near = _nearest(code)
        hint = f"; did you mean {near} ({LANGUAGE_NAMES[near]})?" if near else ""
        raise RequestError(f"language {code!r} is unknown; expected an ISO 639 code of {known}{hint}") from None


def language_name(code: str) -> str:
    """The English name of an ISO 639 code, as Qwen3-ASR writes it.

    Raises:
        RequestError: we do not know the code.
    """
    return find_language(code).name


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


def normalizer(code: str, style: str = STRICT) -> Normalizer:
    """The normalizer of a language, by ISO 639 code.

    `strict` is ours. Some languages have styles beside it that repeat somebody else's scoring, so that figures can be
    compared with theirs: `ivrit` for Hebrew.

    Raises:
        RequestError: we do not know the code, or the language has no such style.
    """
    language = find_language(code)
    if style == STRICT:
        return language.normalizer
    if style in language.styles:
        return language.styles[style]
    where = [other.code for other in _LANGUAGES.values() if style in other.styles]
    if where:
        raise RequestError(f"style {style!r} is for {', '.join(where)} only, not for {code}; use {STRICT!r} there")
    styles = ", ".join([STRICT, *sorted({name for other in _LANGUAGES.values() for name in other.styles})])
    raise RequestError(f"style {style!r} of normalizer is unknown; expected one of {styles}")


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
