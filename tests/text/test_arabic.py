import pytest

from caspi.text import normalizer

arabic = normalizer("ar")


@pytest.mark.parametrize(
    ("written", "transcript", "scoring"),
    [
        ("السَّلامُ عَلَيْكُمْ", "السلام عليكم", "السلام عليكم"),
        ("مـــرحـبا", "مرحبا", "مرحبا"),
        ("ﻣﺮﺣﺒﺎ ﻻ ﷲ", "مرحبا لا الله", "مرحبا لا الله"),
        ("محمدﷺقال", "محمد صلى الله عليه وسلم قال", "محمد صلى الله عليه وسلم قال"),
        ("شكرﹰا", "شكرا", "شكرا"),
        ("هٰذا ٱلكتاب", "هذا الكتاب", "هذا الكتاب"),
        ("ا\u0654 ا\u0655 و\u0654 ي\u0654 ا\u0653", "أ إ ؤ ئ آ", "أ إ ؤ ئ آ"),
        ("أحمد إلى آخر مدرسة على", "أحمد إلى آخر مدرسة على", "أحمد إلى آخر مدرسة على"),
        ("سنة ١٩٤٨ و۲۰ و٣٫٥ و١٬٠٠٠ و٥٪", "سنة 1948 و20 و3.5 و1,000 و5%", "سنة 1948 و20 و3 5 و1 000 و5"),
        ("كيف حالك؟؟ بخير، شكرا؛", "كيف حالك؟ بخير، شكرا؛", "كيف حالك بخير شكرا"),
        ("قال: «نعم» و“لا”", 'قال: «نعم» و"لا"', "قال نعم ولا"),
        ("نص\u06dd١\u06deنص", "نص 1 نص", "نص 1 نص"),
        ("\u061cمرحبا\u200f نور\u200cالدين", "مرحبا نورالدين", "مرحبا نورالدين"),
        ("مرحبا<|im_end|>بك", "مرحبا بك", "مرحبا بك"),
    ],
)
def test_by_example(written: str, transcript: str, scoring: str):
    assert arabic.transcript(written) == transcript
    assert arabic.scoring(written) == scoring


@pytest.mark.parametrize(("one", "other"), [("أ", "ا"), ("إ", "ا"), ("ى", "ي"), ("ة", "ه"), ("ؤ", "و")])
def test_letters_that_some_benchmarks_fold_stay_apart(one: str, other: str):
    assert arabic.scoring(one) != arabic.scoring(other)
