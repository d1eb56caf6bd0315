"""Numbers in Hebrew words as digits: `אלף תשע מאות ארבעים ושמונה` is `1948`, in either gender and either spelling."""

import re

_UNITS = {
    0: "אפס",
    1: "אחד אחת",
    2: "שניים שתיים שני שתי שתים",
    3: "שלוש שלושה שלושת שלש שלשה",
    4: "ארבע ארבעה ארבעת",
    5: "חמש חמישה חמשה חמשת",
    6: "שש שישה ששה ששת",
    7: "שבע שבעה שבעת",
    8: "שמונה שמונת",
    9: "תשע תשעה תשעת",
}
_TENS = {
    20: "עשרים",
    30: "שלושים שלשים",
    40: "ארבעים",
    50: "חמישים חמשים",
    60: "שישים ששים",
    70: "שבעים",
    80: "שמונים",
    90: "תשעים",
}
_YEARS = "שנים"  # before `ten` it is the two of twelve
_TEN = {"עשר", "עשרה", "עשרת"}
_HUNDREDS = {"מאה": 100, "מאתיים": 200, "מאתים": 200}
_OF_HUNDREDS = "מאות"
_SCALES = {"אלף": 1000, "אלפים": 1000, "אלפי": 1000, "מיליון": 10**6, "מיליוני": 10**6, "מיליארד": 10**9}
_NEVER_ALONE = {"אלפים", "אלפי", "מיליוני"}  # `thousands` is no number
_TWO_THOUSAND = "אלפיים"

_UNIT_OF = {word: value for value, words in _UNITS.items() for word in words.split()}
_TEN_OF = {word: value for value, words in _TENS.items() for word in words.split()}
_KNOWN = {_YEARS, *_UNIT_OF, *_TEN_OF, *_TEN, *_HUNDREDS, *_SCALES, _TWO_THOUSAND}

_PREFIXES = re.compile("[ובלהכמש]*")
_AND = "ו"

# The rank of a part: a smaller one may follow a larger one. `20 and 3` is one number, `3 20` and `20 30` are two.
_UNIT, _TEEN, _TEN_RANK, _HUNDRED, _LARGEST = 1, 2, 10, 100, 10**12


def read_numbers(text: str) -> str:
    """Every number in words becomes digits, and prefixes of one and two letters stand apart: `בשלוש` is `ב 3`.

    `text` is words between single spaces, as the scoring normalization leaves them. What may be a number and something
    else, `שני` of Monday, is read as a number: compare only texts that both went through here.
    """
    words = text.split()
    result: list[str] = []
    place = 0
    while place < len(words):
        prefix, word = _split_prefix(words[place])
        value, length = _number_at([word, *words[place + 1 : place + 16]])
        if length:
            result += [*prefix, str(value)]
            place += length
        else:
            result.append(words[place])
            place += 1
    return " ".join(result)


def _split_prefix(word: str) -> tuple[list[str], str]:
    """A prefix of one or two letters, if what is left is a number."""
    letters = _PREFIXES.match(word)
    for length in range(min(2, letters.end() if letters else 0) + 1):
        if word[length:] in _KNOWN or _is_number(word[length:]):
            return [word[:length]] if length else [], word[length:]
    return [], word


def _number_at(words: list[str]) -> tuple[int, int]:
    """The number that words begin with, and how many of them it takes: 0 where there is none."""
    total, group, place, rank, scale = 0, 0, 0, _LARGEST, _LARGEST
    if _is_number(words[0]):
        group, place = _digits_at(words)
        rank = 0  # only a scale may follow: `5 thousand`
    while place < len(words):
        joined = place > 0 and words[place].startswith(_AND) and words[place][1:] in _KNOWN
        word = words[place][1:] if joined else words[place]
        if word in _SCALES and _SCALES[word] < scale and (group or word not in _NEVER_ALONE):
            scale = rank = _SCALES[word]
            total, group, place = total + (group or 1) * scale, 0, place + 1
            continue
        if word == _TWO_THOUSAND and not group and scale > 1000:
            total, scale, rank, place = total + 2000, 1000, 1000, place + 1
            continue
        value, part_rank, length = _part_at(word, words[place + 1 : place + 2])
        follows = part_rank < rank and (joined or part_rank != _UNIT) and (part_rank != _TEEN or rank >= _HUNDRED)
        if not length or (place and not follows):
            break
        group, rank, place = group + value, part_rank, place + length
    return total + group, place


def _part_at(word: str, following: list[str]) -> tuple[int, int, int]:
    """Value, rank and number of words of a part below a thousand; 0 words where there is none."""
    after = following[0] if following else ""
    unit = 2 if word == _YEARS and after in _TEN else _UNIT_OF.get(word)
    if unit and after in _TEN:
        return 10 + unit, _TEEN, 2
    if unit and after == _OF_HUNDREDS:
        return 100 * unit, _HUNDRED, 2
    if unit is not None:
        return unit, _UNIT, 1
    if word in _TEN:
        return 10, _TEEN, 1
    if word in _TEN_OF:
        return _TEN_OF[word], _TEN_RANK, 1
    if word in _HUNDREDS:
        return _HUNDREDS[word], _HUNDRED, 1
    return 0, 0, 0


def _is_number(word: str) -> bool:
    """Digits that mean a quantity: `007` is a name."""
    return word.isascii() and word.isdecimal() and (word == "0" or not word.startswith("0"))


def _digits_at(words: list[str]) -> tuple[int, int]:
    """A number in digits and how many words it takes: normalization makes `1 948` of `1,948`."""
    digits, place = words[0], 1
    while len(words[0]) <= 3 and place < len(words) and re.fullmatch("[0-9]{3}", words[place]):
        digits, place = digits + words[place], place + 1
    return int(digits), place
