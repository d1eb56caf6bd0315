import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caspi.text import normalizer
from tests.text.strategies import HEBREW_MARKS, HEBREW_TEXT, HEBREW_WORD, INVISIBLE, PLAIN_WORD, SEPARATORS, TOKENS

hebrew = normalizer("he")


@given(HEBREW_TEXT)
def test_transcript_and_scoring_are_idempotent(text: str):
    transcript, scoring = hebrew.transcript(text), hebrew.scoring(text)
    assert hebrew.transcript(transcript) == transcript
    assert hebrew.scoring(scoring) == scoring


@given(HEBREW_TEXT)
def test_scoring_sees_the_same_words_before_and_after_transcript(text: str):
    assert hebrew.scoring(hebrew.transcript(text)) == hebrew.scoring(text)


@given(HEBREW_TEXT)
def test_both_are_composed_and_single_spaced(text: str):
    for form in (hebrew.transcript(text), hebrew.scoring(text)):
        assert unicodedata.is_normalized("NFC", form)
        assert form == " ".join(form.split())


@given(HEBREW_TEXT)
def test_no_token_point_or_invisible_character_survives(text: str):
    transcript = hebrew.transcript(text)
    assert not re.search(r"<\|[^<>]*\|>|<asr_text>|<timestamp>|</?think>", transcript)
    assert not re.search(f"[{HEBREW_MARKS}\ufb1d-\ufb36\ufb4a-\ufb4f]", transcript)
    assert not set(INVISIBLE) & set(transcript)
    assert not {unicodedata.category(character) for character in transcript} & {"Cf", "Cc", "Cs"}


@given(HEBREW_TEXT)
def test_no_run_of_one_mark_is_left(text: str):
    assert not re.search(r"([.,!?;:\"'–—-])\1", hebrew.transcript(text))


@given(HEBREW_TEXT)
def test_scoring_holds_no_punctuation_and_no_stray_mark(text: str):
    scoring = hebrew.scoring(text)
    assert not {unicodedata.category(character)[0] for character in scoring} & {"P", "S"}
    assert not any(unicodedata.category(word[0])[0] == "M" for word in scoring.split())


@given(st.lists(st.tuples(PLAIN_WORD, st.lists(st.sampled_from([*SEPARATORS, *TOKENS]), min_size=1, max_size=3))))
def test_what_stands_between_words_never_glues_them(pairs: list[tuple[str, list[str]]]):
    text = "".join(word + "".join(between) for word, between in pairs)
    assert hebrew.scoring(text).split() == [word for word, _ in pairs]


@given(st.lists(st.tuples(HEBREW_WORD, st.text(st.sampled_from(HEBREW_MARKS + INVISIBLE + "\u0301"), max_size=3))))
def test_what_stands_on_or_in_a_word_never_splits_it(pairs: list[tuple[str, str]]):
    word = "".join(letters for letters, _ in pairs)
    assert hebrew.transcript("".join(letters + marks for letters, marks in pairs)) == word


@given(HEBREW_WORD, st.sampled_from(['"', "״", "”", "„", "″", "''", "׳׳"]), HEBREW_WORD)
def test_every_gershayim_is_one_word_and_one_spelling(before: str, gershayim: str, after: str):
    assert hebrew.transcript(before + gershayim + after) == f'{before}"{after}'
    assert hebrew.scoring(before + gershayim + after) == before + after


@pytest.mark.parametrize("code", range(0xFB1D, 0xFB50))
def test_every_presentation_form_opens_into_its_letters(code: int):
    if unicodedata.category(chr(code)) != "Cn":
        word = f"א{chr(code)}ב"
        assert hebrew.scoring(word) in (hebrew.scoring(unicodedata.normalize("NFKD", word)), "א ב")  # U+FB29 is a plus
        assert not re.search("[\ufb1d-\ufb28\ufb2a-\ufb4f]", hebrew.transcript(word))


@pytest.mark.parametrize(
    ("written", "transcript", "scoring"),
    [
        ("בְּרֵאשִׁ֖ית בָּרָ֣א", "בראשית ברא", "בראשית ברא"),
        ("בֽ͏רֿא", "ברא", "ברא"),
        ("צה״ל הודיע", 'צה"ל הודיע', "צהל הודיע"),
        ("צה”ל הודיע", 'צה"ל הודיע', "צהל הודיע"),
        ("צה''ל הודיע", 'צה"ל הודיע', "צהל הודיע"),
        ("צ׳ק", "צ'ק", "צק"),
        ("ג’ירפה", "ג'ירפה", "גירפה"),
        ("גʼירפה", "ג'ירפה", "גירפה"),
        ("בֵּית־סֵפֶר", "בית-ספר", "בית ספר"),
        ("בית‑ספר", "בית-ספר", "בית ספר"),
        ("הַשָּׁמַיִם׃וְאֵת", "השמים׃ואת", "השמים ואת"),
        ("אמר׀לו", "אמר לו", "אמר לו"),
        ("שּׁלום", "שלום", "שלום"),
        ("ﭏהים", "אלהים", "אלהים"),
        ("ﬠברית ﬡבג", "עברית אבג", "עברית אבג"),
        ("אייפאָון ײדיש", "אייפאון ײדיש", "אייפאון יידיש"),
        ("שלו\u0301ם", "שלום", "שלום"),
        ("<|0.00|>שלום<|2.40|><|2.50|>עולם<|3.00|>", "שלום עולם", "שלום עולם"),
        ("<|he|><|notimestamps|>שלום<|im_end|>", "שלום", "שלום"),
        ("<|im\u200b_end|>א", "א", "א"),
        ("שלום＜|im_end|＞עולם", "שלום עולם", "שלום עולם"),
        ("language Hebrew<asr_text>שלום", "language Hebrew שלום", "language hebrew שלום"),
        ("ירו\xadשלים", "ירושלים", "ירושלים"),
        ("\u202bשלום\u202c", "שלום", "שלום"),
        ("מה?? לא!!! אולי...", "מה? לא! אולי.", "מה לא אולי"),
        ("  א\t ב\n", "א ב", "א ב"),
        ("בשנת 1948, USB-C", "בשנת 1948, USB-C", "בשנת 1948 usb c"),
        ("ארץ ישראל מים", "ארץ ישראל מים", "ארץ ישראל מים"),
        ("C:\\1", "C:\\1", "c 1"),
        ("¨ 1\ufe0f\u20e3", "¨ 1\u20e3", "1"),
        ("", "", ""),
    ],
)
def test_by_example(written: str, transcript: str, scoring: str):
    assert hebrew.transcript(written) == transcript
    assert hebrew.scoring(written) == scoring
