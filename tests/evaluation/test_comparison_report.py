"""The page on which several systems stand side by side."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caspi.evaluation.compare_systems import describe
from caspi.evaluation.comparing import compare
from caspi.evaluation.comparison_report import render_comparison, verdict, write_comparison_report
from caspi.evaluation.results import Results
from caspi.evaluation.sound import Sound
from tests.browser import Browser, browser, needs_chromium
from tests.evaluation.hearing import hear

SAID = ["אב גד", "הו זח", "טי כל"]
HEARD = {
    "base": ["אב", "הו זח", "מה טי קל"],
    "tuned": ["אב גד", "הו זך", "טי כל"],
    "whisper": ["עב גד", "הו זח", "טי כל"],
}


def systems(*names: str) -> dict[str, Results]:
    return {name: hear(list(zip(SAID, HEARD[name], strict=True)), name=name, source=["x", "x", "y"]) for name in names}


def summary(
    results: dict[str, Results], differences: dict[tuple[str, str], tuple[float, float] | None]
) -> dict[str, Any]:
    """What comparison.json would hold, with these intervals of WER differences between (baseline, system)."""

    def difference(baseline: str, system: str) -> dict[str, Any]:
        wers = {name: results[name].metrics["wer"] for name in (baseline, system)}
        return {
            "num_utterances": 3, "baseline_wer": wers[baseline], "wer": wers[system],
            "wer_difference": wers[system] - wers[baseline], "wer_difference_interval": differences[baseline, system],
            "probability_better": 0.9876,
        }  # fmt: skip

    copied = ("wer", "wer_interval", "cer", "substitutions", "deletions", "insertions", "hallucination", "rtfx")
    return {
        "test_set": {"fingerprint": "f" * 64, "num_utterances": 3, "num_recordings": 3, "reference_words": 6,
                     "num_left_out": 2},
        "normalizer": "caspi.text.normalizer('he').scoring",
        "systems": [
            {"name": name, "system": each.metrics["system"], "ivrit": None} | {key: each.metrics[key] for key in copied}
            for name, each in results.items()
        ],
        "pairs": [
            {
                "baseline": baseline, "system": system, **difference(baseline, system), "num_better": 2, "num_worse": 1,
                "slices": {"source": {name: {**difference(baseline, system), "p_value_holm": p_value}
                                      for name, p_value in (("x", 0.2), ("y", 0.01))}},
            }
            for baseline, system in differences
        ],
    }  # fmt: skip


CLEAR = {("base", "tuned"): (-0.5, -0.1)}
THREE = {("base", "tuned"): (-0.5, -0.1), ("base", "whisper"): (-0.5, -0.1), ("tuned", "whisper"): (-0.1, 0.2)}


def test_the_better_one_is_named_only_where_the_interval_leaves_no_doubt():
    two = systems("base", "tuned")
    assert verdict(summary(two, CLEAR)) == "tuned is better"
    assert verdict(summary(two, {("base", "tuned"): (-0.5, 0.1)})) == "No clear difference"
    assert verdict(summary(two, {("base", "tuned"): None})) == "No clear difference", "of one recording"
    three = systems("base", "tuned", "whisper")
    assert verdict(summary(three, THREE)) == "tuned leads, not clearly ahead of whisper"
    assert verdict(summary(three, THREE | {("tuned", "whisper"): (0.1, 0.2)})) == "tuned is best"


def test_a_difference_stands_with_its_interval_and_its_probability():
    two = systems("base", "tuned")
    html = render_comparison(two, summary(two, CLEAR), Sound())
    assert "−33.3 points of WER" in html
    assert "95% interval −50.0 to −10.0" in html
    assert "Better with a probability of 98.8%" in html
    assert "2 utterances are left out" in html


def test_what_is_not_known_of_one_recording_is_not_shown_as_certain():
    two = {name: hear(list(zip(SAID, HEARD[name], strict=True)), recording_id=["r"] * 3) for name in ("base", "tuned")}
    comparison = compare(list(two.values()), list(two))
    html = render_comparison(two, comparison.summary, Sound())
    assert "No clear difference" in html
    assert "<td>−33.3</td>" in html.replace("<b>", "").replace("</b>", "")
    assert "95% interval −" not in html
    assert '<span class="interval"' not in html
    assert "base: -33.33 points (how sure is not known), all of one recording" in describe(comparison)


def test_of_many_slices_only_those_that_differ_clearly_are_marked():
    two = systems("base", "tuned")
    html = render_comparison(two, summary(two, CLEAR), Sound())
    assert html.count('<b title="clear">') == 1
    assert html.index('data-slice="source=x"') < html.index('data-slice="source=y"') < html.index('title="clear"')


def test_of_three_systems_every_pair_is_listed():
    three = systems("base", "tuned", "whisper")
    html = render_comparison(three, summary(three, THREE), Sound())
    for baseline, system in THREE:
        assert f"<bdi>{system}</bdi> against <bdi>{baseline}</bdi>" in html


def test_utterances_that_one_system_was_not_scored_on_are_not_shown():
    base = hear(list(zip(SAID, HEARD["base"], strict=True)), source=["x", "x", "y"], duration_s=[1.0, 3.0, 8.0])
    tuned = hear(
        list(zip(SAID, HEARD["tuned"], strict=True)), source=["x", "x", "y"], error=[None, None, "undecodable_audio"]
    )
    found = summary({"base": base, "tuned": tuned}, CLEAR)
    html = render_comparison({"base": base, "tuned": tuned}, found, Sound())
    assert '"id":["u0","u1"]' in html
    assert '<th scope="row">5-10 s</th>' not in html


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The page of three systems."""
    folder = tmp_path_factory.mktemp("comparison")
    three = systems("base", "tuned", "whisper")
    path = write_comparison_report(folder, three, summary(three, THREE))
    with browser(folder / "profile") as opened:
        opened.open(path)
        yield opened
        assert opened.problems == []


def ids(tab: Browser, kind: str) -> list[str]:
    tab.run(
        f"kind.value = [...kind.options].find(option => option.text.startsWith({kind!r})).value;"
        "kind.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    found: list[str] = tab.run("[...document.querySelectorAll('#rows tr .meta bdi')].map(each => each.textContent)")
    return found


@needs_chromium
def test_all_answers_are_aligned_to_the_reference(tab: Browser):
    tab.run("document.querySelector('[data-sort=order]').click()")
    words = "[...document.querySelectorAll('#rows tr')].map(row => [...row.querySelectorAll('.word')].map(word =>"
    words += "[...word.children].map(each => each.textContent.replace(/ +/g, ' ').trim())))"
    assert tab.run(words) == [
        [["אב", "A A: right אב", "B B: right אב", "C C: heard as עב"],
         ["גד", "A– A: not heard", "B B: right גד", "C C: right גד"]],
        [["זח", "A A: right זח", "B B: heard as זך", "C C: right זח"]],
        [["+", "A A: added מה", "B·", "C·"], ["כל", "A A: heard as קל", "B B: right כל", "C C: right כל"]],
    ]  # fmt: skip


@needs_chromium
def test_who_is_better_filters_and_the_largest_change_comes_first(tab: Browser):
    assert ids(tab, "All utterances")[0] == "u0"  # in the order of the corpus, as chosen above
    tab.run("document.querySelector('[data-sort=change]').click()")
    assert ids(tab, "All utterances") == ["u2", "u0", "u1"]
    assert ids(tab, "B has the fewest errors") == ["u0"]
    assert ids(tab, "Where they differ") == ["u2", "u0", "u1"]
    assert (
        tab.run("document.getElementById('status').textContent") == "3 of 3 utterances, WER A 50.0%, B 16.7%, C 16.7%"
    )


@needs_chromium
def test_the_page_of_a_comparison_fits_a_phone_too(tab: Browser, tmp_path: Path):
    two = systems("base", "tuned")
    long = {"base" * 40: two["base"], "tuned": two["tuned"]}
    found = summary(two, CLEAR)
    found["systems"][0]["name"] = found["pairs"][0]["baseline"] = "base" * 40
    tab.open(write_comparison_report(tmp_path, long, found), width=360, dark=True)
    assert tab.run("document.documentElement.scrollWidth") <= 360
