"""Ktiv male and ktiv haser: the same word with more or fewer of the letters that stand for vowels."""

_VOWEL_LETTERS = "וי"
_FEWEST_LETTERS = 3  # of shorter words too many pairs are different words: שר and שיר
_MOST_LETTERS_APART = 2


def differ_in_vowel_letters(one: str, other: str) -> bool:
    """Would the words be the same without some vav or yod inside the longer one? `תכנית` and `תוכנית` would.

    A letter at either end is never such a one: it is a prefix or a suffix. Nor is one letter instead of the other:
    `הוא` and `היא` are two words. It forgives some true errors: `דבר` and `דיבר`.
    """
    shorter, longer = sorted((one, other), key=len)
    if len(shorter) < _FEWEST_LETTERS or not 0 < len(longer) - len(shorter) <= _MOST_LETTERS_APART:
        return False
    if shorter[0] != longer[0] or shorter[-1] != longer[-1]:
        return False
    place = 1
    for letter in longer[1:-1]:
        if place < len(shorter) - 1 and letter == shorter[place]:
            place += 1
        elif letter not in _VOWEL_LETTERS:
            return False
    return place == len(shorter) - 1
