"""One file for each language with a normalizer of its own: it declares `LANGUAGE`, and that is all there is to do."""

import importlib
import pkgutil

from caspi.text.language import Language


def discover() -> dict[str, Language]:
    """Every language declared in this package, by ISO 639 code."""
    found: dict[str, Language] = {}
    for module in sorted(each.name for each in pkgutil.iter_modules(__path__)):
        language: Language = importlib.import_module(f"{__name__}.{module}").LANGUAGE
        assert language.code not in found, f"two files of {__name__} declare {language.code!r}"
        found[language.code] = language
    return found
