import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caspi.text import normalizer

hebrew = normalizer("he")

# Letters, points, accents, punctuation, presentation forms; marks of other scripts; what is invisible; token pieces.
HEBREW_TEXT = st.lists(
    st.one_of(
        st.characters(min_codepoint=0x0590, max_codepoint=0x05FF),
        st.characters(min_codepoint=0xFB1D, max_codepoint=0xFB4F),
        st.sampled_from("\"'״׳“”„‘’‚`´′″-–—.,!?;:…()<>|/_ \t\n\xa0\xad"),
        st.sampled_from("\u034f\u200b\u200c\u200d\u200e\u200f\u202a\u202e\u2060\u2066\u2069\ufe0f\ufeff\u0301\u0338"),
        st.sampled_from(["<|im_end|>", "<|2.40|>", "<asr_text>", "<timestamp>", "<|", "|>", "</think>"]),
        st.characters(),
    ),
    max_size=30,
).map("".join)


@given(HEBREW_TEXT)
def test_transcript_and_scoring_are_idempotent(text):
    transcript, scoring = hebrew.transcript(text), hebrew.scoring(text)
    assert hebrew.transcript(transcript) == transcript
    assert hebrew.scoring(scoring) == scoring


@given(HEBREW_TEXT)
def test_scoring_sees_the_same_words_before_and_after_transcript(text):
    assert hebrew.scoring(hebrew.transcript(text)) == hebrew.scoring(text)


@given(HEBREW_TEXT)
def test_no_token_mark_or_invisible_character_survives(text):
    transcript = hebrew.transcript(text)
    assert not re.search(r"<\|[^<>]*\|>|<asr_text>|<timestamp>|</?think>", transcript)
    assert not re.search("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\ufb1d-\ufb36\ufb4a-\ufb4f]", transcript)
    assert not re.search("[\xad\u034f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff]", transcript)
    assert transcript == " ".join(transcript.split())


@given(HEBREW_TEXT)
def test_scoring_holds_no_punctuation(text):
    assert not re.search(r"[\"'.,!?;:()<>|/\-־׀׃׳״“”‘’]", hebrew.scoring(text))


@pytest.mark.parametrize(
    ("written", "transcript", "scoring"),
    [
        ("בְּרֵאשִׁ֖ית בָּרָ֣א", "בראשית ברא", "בראשית ברא"),
        ("צה״ל הודיע", 'צה"ל הודיע', "צהל הודיע"),
        ("צה”ל הודיע", 'צה"ל הודיע', "צהל הודיע"),
        ("צה''ל הודיע", 'צה"ל הודיע', "צהל הודיע"),
        ("צ׳ק", "צ'ק", "צק"),
        ("ג’ירפה", "ג'ירפה", "גירפה"),
        ("בֵּית־סֵפֶר", "בית-ספר", "בית ספר"),
        ("הַשָּׁמַיִם׃וְאֵת", "השמים׃ואת", "השמים ואת"),
        ("אמר׀לו", "אמר לו", "אמר לו"),
        ("שּׁלום", "שלום", "שלום"),
        ("ﭏהים", "אלהים", "אלהים"),
        ("<|0.00|>שלום<|2.40|><|2.50|>עולם<|3.00|>", "שלום עולם", "שלום עולם"),
        ("<|he|><|notimestamps|>שלום<|im_end|>", "שלום", "שלום"),
        ("<|im\u200b_end|>א", "א", "א"),
        ("language Hebrew<asr_text>שלום", "language Hebrew שלום", "language hebrew שלום"),
        ("ירו\xadשלים", "ירושלים", "ירושלים"),
        ("\u202bשלום\u202c", "שלום", "שלום"),
        ("מה?? לא!!!", "מה? לא!", "מה לא"),
        ("  א\t ב\n", "א ב", "א ב"),
        ("בשנת 1948, USB-C", "בשנת 1948, USB-C", "בשנת 1948 usb c"),
        ("ארץ ישראל מים", "ארץ ישראל מים", "ארץ ישראל מים"),
        ("C:\\1", "C:\\1", "c 1"),
        ("", "", ""),
    ],
)
def test_by_example(written, transcript, scoring):
    assert hebrew.transcript(written) == transcript
    assert hebrew.scoring(written) == scoring
