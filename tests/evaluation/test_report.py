"""The page that people read: what it says, and how it behaves in a browser."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caspi.corpus.format import Corpus
from caspi.evaluation.report import in_words, render, write_report
from caspi.evaluation.results import Results
from caspi.evaluation.sound import Sound
from tests.browser import Browser, browser, needs_chromium
from tests.evaluation.conftest import make_row, write_corpus
from tests.evaluation.hearing import hear

TEXTS = [
    ("בית־ספר גדול", "בית הספר גדול"),
    ("צה״ל הודיע היום", 'צה"ל אודיע'),
    ("בְּרֵאשִׁית בָּרָא", "בראשית ברא"),
    ("כל טוב", "קל טוב מאוד"),
    ("", "תודה רבה"),
    ("בשנת 1948 קם Google", "בשנת 1948 קם גוגל"),
    ("אף אחד", ""),
    ("אז אז", "אז " * 30),
    ("שבור", "אין"),
]
DURATIONS_S = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, None]  # of what was refused whole, none is known
SOURCES = ["fleurs", "crowd", "crowd", "fleurs", "crowd", "crowd", "fleurs", "crowd", "crowd"]


def example() -> Results:
    return hear(TEXTS, source=SOURCES, duration_s=DURATIONS_S, error=[None] * 8 + ["undecodable_audio"])


def page(results: Results) -> str:
    return render(results, Sound())


# --- what it says -----------------------------------------------------------------------------------------------------


def test_the_headline_has_the_interval_and_says_it_in_words_too():
    results = hear([("א ב ג ד", "א ב ג ד"), ("א ב ג ד", "א ב ג ה")])
    results.metrics["wer_interval"] = [0.1, 0.2]
    html = page(results)
    assert "12.5% WER" in html
    assert "95% interval 10.0% to 20.0%" in html
    assert "About one word in 8 is wrong, missing or added." in html


def test_of_one_recording_no_interval_is_shown():
    html = page(hear([("א ב", "א"), ("א ב", "א ב")], recording_id=["r", "r"], duration_s=[1.0, 8.0]))
    assert "One recording does not tell how sure that is" in html
    assert '<span class="interval"' not in html
    assert '<line class="whisker"' not in html
    assert "<td>–</td>" in html


@pytest.mark.parametrize(
    ("wer", "said"),
    [
        (0.0, "Every word is right."),
        (0.0004, "About one word in 2,500 is wrong, missing or added."),
        (0.33, "About one word in 3 is wrong, missing or added."),
        (0.4, "About 4 words in 10 are wrong, missing or added."),
        (0.71, "About 7 words in 10 are wrong, missing or added."),
        (1.0, "There are about as many errors as words."),
        (2.47, "There are more errors than words."),
    ],
)
def test_a_rate_in_words(wer: float, said: str):
    assert in_words(wer) == said


def test_transcripts_cannot_put_markup_into_the_page():
    attack = "</script><script>alert(1)</script><img onerror=alert(1)>"
    html = page(hear([(attack, "א"), ("א", attack)], source=[attack, attack], name=attack))
    assert "<script>alert" not in html
    assert "<img" not in html
    assert html.count("<script") == html.count("</script") == 3


def test_the_page_needs_nothing_from_elsewhere():
    assert not re.search(r"https?://|src=|@import|<link|url\(", page(example()))


def test_a_perfect_model_gets_a_page_too():
    html = page(hear([("שלום", "שלום")]))
    assert "0.0% WER" in html
    assert html.count("None.") == 4  # confusions


def test_one_recording_has_no_interval_and_one_slice_no_group():
    html = page(hear([("שלום לך", "שלום")]))
    assert "95% interval" not in html.partition("</header>")[0]
    assert 'data-slice="source=crowd"' in html
    assert 'data-slice="duration' not in html


def test_a_file_of_hypotheses_has_no_speed_and_heard_no_silence():
    results = hear([("שלום", "שלום")])
    results.metrics["system"]["kind"] = "file"
    html = page(results)
    assert "Times real time" not in html
    assert "Where nobody speaks" not in html


def test_ivrits_score_stands_beside_ours_and_not_in_the_headline():
    html = page(example())
    assert html.index("Ours: the headline") < html.index("ivrit.ai&#39;s")
    assert "normalizer(&#39;he&#39;, &#39;ivrit&#39;)" in html


def test_what_could_not_be_used_is_counted():
    assert "1 <code>undecodable_audio</code>" in page(example())


def test_a_model_that_hears_words_in_noise_is_shown_to():
    results = example()
    results.metrics["hallucination"]["clips"] = [{"clip": "noise/hum/3s", "hypothesis": "תודה רבה"}]
    assert '<code>noise/hum/3s</code> <bdi lang="he">תודה רבה</bdi>' in page(results)


# --- in a browser -----------------------------------------------------------------------------------------------------

Open = Callable[..., Browser]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium") / "profile") as opened:
        yield opened


@pytest.fixture
def show(tab: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens a report; afterwards nothing on it may have failed."""

    def show(results: Results, **values: Any) -> Browser:
        tab.problems.clear()
        tab.open(write_report(tmp_path, results), **values)
        return tab

    yield show
    assert tab.problems == []


def ids(tab: Browser) -> list[str]:
    """The utterances that the table shows, from above."""
    found: list[str] = tab.run(
        "[...document.querySelectorAll('#rows tr')].map(row => row.querySelector('bdi').textContent)"
    )
    return found


def search(tab: Browser, words: str) -> list[str]:
    tab.run(f"search.value = {words!r}; search.dispatchEvent(new Event('input'))")
    return sorted(ids(tab))


def choose(tab: Browser, menu: str, option: str) -> list[str]:
    """Choose what an option's text begins with."""
    tab.run(
        f"(() => {{ const menu = document.querySelector({menu!r});"
        f"menu.value = [...menu.options].find(option => option.text.startsWith({option!r})).value;"
        "menu.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    return sorted(ids(tab))


def click(tab: Browser, selector: str) -> None:
    tab.run(f"document.querySelector({selector!r}).click(); new Promise(done => setTimeout(done, 20))")


@needs_chromium
def test_words_stand_above_what_was_heard_instead(show: Open):
    tab = show(example())
    search(tab, "u1")
    words = "[...document.querySelectorAll('#rows .word')].map(w => [...w.children].map(e => e.textContent.trim()))"
    assert tab.run(words) == [["הודיע", "heard as אודיע"], ["היום", "not heard"]]
    assert tab.run("document.querySelector('#rows .said').firstChild.textContent") == "צהל "
    assert tab.run("getComputedStyle(document.querySelector('#rows .said')).direction") == "rtl"
    assert tab.run("document.querySelector('#rows .said u').textContent") == "א"  # the letter that differs


@needs_chromium
def test_the_worst_comes_first_and_headers_sort(show: Open):
    tab = show(example())
    assert ids(tab)[0] == "u7"
    assert ids(tab)[-1] == "u8"  # could not be used: not the best, and not the worst
    click(tab, "[data-sort=order]")
    assert ids(tab) == [f"u{place}" for place in range(9)]
    click(tab, "[data-sort=seconds]")
    assert (ids(tab)[0], ids(tab)[-1]) == ("u7", "u8")
    click(tab, "[data-sort=seconds]")
    assert ids(tab)[:2] == ["u8", "u0"]
    states = "[...document.querySelectorAll('#utterances th[aria-sort]')].map(th => th.ariaSort)"
    assert tab.run(states) == ["none", "none", "ascending", "none"]


@needs_chromium
def test_search_finds_words_however_they_are_written_and_ids(show: Open):
    tab = show(example())
    assert search(tab, "בראשית") == search(tab, "בְּרֵאשִׁית") == ["u2"]
    assert search(tab, "צה״ל") == search(tab, 'צה"ל') == ["u1"]
    assert search(tab, "בית-ספר") == ["u0"]
    assert search(tab, "GOOGLE") == ["u5"]
    assert search(tab, "גוגל") == ["u5"]  # heard, not said
    assert search(tab, "u3") == ["u3"]
    assert search(tab, "...") == []
    assert tab.run("document.getElementById('status').textContent") == "0 of 9 utterances"


@needs_chromium
@pytest.mark.parametrize(
    ("code", "said", "words"), [("yi", "אַ שיינער טאָג", "טאָג"), ("de", "Die Straße ist frei", "Straße")]
)
def test_words_that_are_copied_from_the_page_are_found(show: Open, code: str, said: str, words: str):
    tab = show(hear([(said, said), ("123", "123")], language=[code, code]))
    shown = tab.run("[...document.querySelectorAll('#rows .said')].map(each => each.textContent)")
    assert search(tab, words) == search(tab, max(shown, key=len).split()[2 if code == "yi" else 1]) == ["u0"]


@needs_chromium
def test_kinds_of_errors_and_slices_filter(show: Open):
    tab = show(example())
    assert choose(tab, "#kind", "Without errors") == ["u2"]
    assert choose(tab, "#kind", "A word was left out") == ["u1", "u6"]
    assert choose(tab, "#kind", "Nothing was heard") == ["u6"]
    assert choose(tab, "#kind", "Words heard in silence") == ["u4"]
    assert choose(tab, "#kind", "Repeats itself") == ["u7"]
    assert choose(tab, "#kind", "Could not be used") == ["u8"]
    assert choose(tab, "#kind", "With errors") == ["u0", "u1", "u3", "u4", "u5", "u6", "u7"]
    assert choose(tab, "[data-group=source]", "fleurs") == ["u0", "u3", "u6"]
    assert search(tab, "טוב") == ["u3"]
    click(tab, "[type=reset]")
    assert len(ids(tab)) == 9


@needs_chromium
def test_the_status_says_how_good_the_model_is_on_what_is_chosen(show: Open):
    tab = show(hear([("א ב", "א ב"), ("א ב", "א ג")]))
    choose(tab, "#kind", "With errors")
    assert tab.run("document.getElementById('status').textContent") == "1 of 2 utterances, WER 50.0%"


@needs_chromium
def test_a_slice_and_a_confusion_lead_to_their_utterances(show: Open):
    tab = show(example())
    search(tab, "nothing")
    click(tab, "a[data-slice='source=fleurs']")
    assert sorted(ids(tab)) == ["u0", "u3", "u6"]
    click(tab, "a[data-said='כל'][data-heard='קל']")
    assert ids(tab) == ["u3"]
    assert tab.run("document.getElementById('pair').textContent") == "Remove the filter כל → קל ✕"
    click(tab, "#pair")
    assert len(ids(tab)) == 9


@needs_chromium
def test_more_than_fits_comes_as_one_scrolls_and_by_a_button(show: Open):
    tab = show(hear([(f"מספר {place}", "מספר") for place in range(100)]))
    assert tab.run("document.querySelector('#utterances table').getAttribute('aria-rowcount')") == "101"
    assert len(ids(tab)) < 100
    for _ in range(10):
        click(tab, "#more")
    assert len(ids(tab)) == len(set(ids(tab))) == 100
    assert tab.run("document.querySelector('#rows').lastChild.ariaRowIndex") == "101"
    assert tab.run("document.getElementById('more').hidden")


@needs_chromium
def test_it_works_by_keyboard_alone(show: Open):
    tab = show(example())
    tab.run("document.getElementById('search').focus()")
    reached = []
    for _ in range(30):
        tab.press("Tab", 9)
        reached.append(tab.run("document.activeElement.dataset.sort ?? document.activeElement.id ?? ''"))
    assert [each for each in reached if each in ("kind", "errors-0", "wer", "seconds", "order")] == [
        "kind", "errors-0", "wer", "seconds", "order",
    ]  # fmt: skip
    tab.run("document.querySelector('[data-sort=order]').focus()")
    tab.press("Enter", 13)
    assert ids(tab)[0] == "u0"
    tab.run("document.querySelector('#rows summary').focus()")
    tab.press("Enter", 13)
    tab.run("new Promise(done => setTimeout(done, 100))")  # filled when it has opened
    assert "בית־ספר גדול" in tab.run("document.querySelector('#rows details').innerText")


@needs_chromium
def test_a_screen_reader_is_told_what_everything_is(show: Open):
    tab = show(example())
    assert "Every utterance" in tab.names("table")
    assert {"Errors", "WER", "Seconds"} <= set(tab.names("columnheader"))
    assert tab.names("searchbox") == ["Search in words and names"]
    assert "" not in tab.names("button") + tab.names("combobox") + tab.names("link")
    assert len(tab.names("heading")) == len(set(tab.names("heading")))


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_nothing_is_wider_than_the_screen(show: Open, dark: bool):
    long = "מילה" * 30
    texts = [(f"{long} ועוד", f"{long}ו ועוד"), *TEXTS]
    names = ["a-source-with-" + "a-long-" * 9 + "name", *SOURCES]
    tab = show(hear(texts, source=names, name="/folder" * 20), width=360, dark=dark)
    tab.run("for (const each of document.querySelectorAll('details')) each.open = true")
    assert tab.run("document.documentElement.scrollWidth") <= 360
    assert tab.run("getComputedStyle(document.body).color") == ("rgb(231, 234, 237)" if dark else "rgb(29, 35, 41)")


@pytest.fixture
def audible(tmp_path: Path) -> Results:
    """Two utterances of a corpus, of one second and of two."""
    rows = [make_row(number) for number in (0, 1)]
    corpus: Corpus = write_corpus(tmp_path / "corpus", [rows])
    results = hear(
        [("שלום", "שלום"), ("שלום", "אולם")], shard=["test/shard-00000.parquet"] * 2, row=[0, 1],
        utterance_id=[row["utterance_id"] for row in rows],
    )  # fmt: skip
    results.metrics.update(corpus=str(corpus.path), corpus_fingerprint=corpus.fingerprint)
    return results


PLAY = """
new Promise(done => {
  const audio = document.querySelector('audio');
  for (const event of ['playing', 'error']) audio.addEventListener(event, () => done([event, audio.duration]));
  document.querySelector('#rows button').click();
})
"""


@needs_chromium
@pytest.mark.parametrize("is_beside", [False, True])
def test_an_utterance_is_heard_at_one_click(
    show: Open, audible: Results, is_beside: bool, monkeypatch: pytest.MonkeyPatch
):
    if is_beside:
        monkeypatch.setattr("caspi.evaluation.sound.MAX_EMBEDDED_BYTES", 100)
    tab = show(audible)
    assert tab.run(PLAY) == ["playing", 2.0]  # the worst one is above
    button = "document.querySelector('#rows button')"
    assert tab.run(f"[{button}.ariaLabel, {button}.ariaPressed]") == ["Play utterance-98", "true"]
    tab.run(f"{button}.click(); new Promise(done => setTimeout(done, 100))")
    assert tab.run(f"[{button}.ariaPressed, document.querySelector('audio').paused]") == ["false", True]


@needs_chromium
def test_sound_that_was_left_behind_is_said_to_be_missing(
    show: Open, tab: Browser, audible: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("caspi.evaluation.sound.MAX_EMBEDDED_BYTES", 100)
    show(audible)
    for file in (tmp_path / "report_audio").iterdir():
        file.unlink()
    assert tab.run(PLAY)[0] == "error"
    assert "is not here" in tab.run("document.getElementById('no-sound').innerText")
    tab.problems.clear()


@needs_chromium
def test_a_transcript_is_text_and_nothing_else(show: Open):
    attack = "<img src=x onerror=document.title='caught'>"
    results = hear([(attack, attack + " x"), ("א", attack)])
    tab = show(results)
    tab.run("for (const each of document.querySelectorAll('details')) each.open = true")
    tab.run("new Promise(done => setTimeout(done, 50))")
    assert tab.run("[document.title.startsWith('WER'), document.images.length]") == [True, 0]
    assert attack in tab.run("document.querySelector('#rows').innerText")


@needs_chromium
def test_ten_thousand_utterances_are_filtered_rightly(show: Open):
    generator = np.random.default_rng(0)
    words = [f"מילה{number}" for number in range(500)]
    said = [" ".join(generator.choice(words, 8)) for _ in range(10_000)]
    heard = [text if place % 3 else text.replace("מילה7 ", "") for place, text in enumerate(said)]
    tab = show(hear(list(zip(said, heard, strict=True))))
    search(tab, "מילה77")
    expected = sum("מילה77" in text for text in said)
    assert tab.run("document.querySelector('#utterances table').ariaRowCount") == str(expected + 1)
    search(tab, "")
    choose(tab, "#kind", "A word was left out")
    expected = sum(one != other for one, other in zip(said, heard, strict=True))
    assert tab.run("document.querySelector('#utterances table').ariaRowCount") == str(expected + 1)
