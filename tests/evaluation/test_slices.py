"""Which parts of a test set an utterance belongs to."""

import pytest

from caspi.evaluation.metrics import count_errors
from caspi.evaluation.slices import label, score_slices


def labels(**values: object) -> dict[str, str]:
    row = {
        "reference": "שלום", "language": "he", "source": "crowd", "speaker_id": None, "duration_s": 3.0,
        "characters_per_second": 9.0, "snr_db": None, **values,
    }  # fmt: skip
    return dict(each.split("=", 1) for each in label(row))


def test_an_utterance_has_a_label_for_all_that_is_known_of_it():
    assert labels() == {
        "source": "crowd",
        "duration": "2-5 s",
        "form": "short",
        "characters_per_second": "8-12 a second",
        "numbers": "none",
        "script": "hebrew",
    }


@pytest.mark.parametrize(
    ("values", "group", "name"),
    [
        ({"snr_db": -3.0}, "snr", "under 5 dB"),
        ({"snr_db": 20.0}, "snr", "15-25 dB"),
        ({"snr_db": 50.0}, "snr", "over 35 dB"),
        ({"duration_s": 240.0}, "form", "long"),
        ({"duration_s": 240.0}, "duration", "over 30 s"),
        ({"characters_per_second": 20.5}, "characters_per_second", "over 20 a second"),
        ({"reference": "בשנת 1948"}, "numbers", "digits"),
        ({"reference": "קניתי iPhone חדש"}, "script", "mixed"),
        ({"reference": "Thank you"}, "script", "latin"),
        ({"reference": "спасибо"}, "script", "other"),
        ({"reference": "thank you", "language": "en"}, "script", "latin"),
        ({"speaker_id": "דנה=1"}, "speaker", "דנה=1"),
    ],
)
def test_a_label_says_what_is_special(values: dict, group: str, name: str):
    assert labels(**values)[group] == name


def test_a_text_without_letters_has_no_script():
    assert "script" not in labels(reference="1948")


def test_bands_are_in_order_and_names_by_the_alphabet():
    names = ["duration=over 30 s", "duration=0-2 s", "duration=10-20 s", "duration=5-10 s"]
    sources = ["source=b", "source=a", "source=b", "source=a"]
    counts = count_errors(["א"] * 4, ["א", "ב", "א", "א"])
    found = score_slices(counts, [list(each) for each in zip(names, sources, strict=True)], ["r"] * 4)
    assert list(found) == ["source", "duration"]
    assert list(found["duration"]) == ["0-2 s", "5-10 s", "10-20 s", "over 30 s"]
    assert list(found["source"]) == ["a", "b"]
    assert (found["source"]["a"]["wer"], found["source"]["a"]["num_utterances"]) == (0.5, 2)


def test_of_many_speakers_those_with_the_most_utterances_are_shown():
    labels = [[f"speaker={number}"] for number in range(30)] + [["speaker=29"]]
    counts = count_errors(["א"] * 31, ["א"] * 31)
    speakers = score_slices(counts, labels, ["r"] * 31)["speaker"]
    assert len(speakers) == 20
    assert "29" in speakers
