"""The page that says whether a corpus is fit, and what it says."""

import html
import html.parser
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caspi import audio
from caspi.corpus.charts import draw_histogram, draw_spectrogram
from caspi.corpus.findings import Finding, Speakers, examine
from caspi.corpus.format import INDEX_SCHEMA, REJECTED_SCHEMA, SHARD_SCHEMA, SPLITS
from caspi.corpus.reasons import explain
from caspi.corpus.report import Example, write_report
from caspi.corpus.statistics import Statistics
from caspi.errors import AudioError
from caspi.page import hours

RATE = audio.SAMPLE_RATE


def utterance(number: int, **values: Any) -> dict[str, Any]:
    duration_s = values.get("duration_s", 1.0 + number % 3)
    text = values.get("text", f"שלום עולם {number}")
    time = np.arange(round(duration_s * RATE)) / RATE
    return {
        "utterance_id": f"u{number}",
        "audio": audio.encode_flac(0.3 * np.sin(2 * np.pi * (200 + 50 * number) * time)),
        "duration_s": duration_s,
        "text": text,
        "language": "he",
        "source": "crowd",
        "recording_id": f"r{number}",
        "speaker_id": f"s{number % 20}",
        "start_s": 0.0,
        "end_s": duration_s,
        "split": "train",
        "num_text_chars": len(text),
        "level_dbfs": -20.0 - number % 5,
        "clipped_share": 0.0,
        "snr_db": 25.0 + number % 7,
        "native_sample_rate": 44100,
        "codec": "mp3",
        **values,
    }


def write_corpus(folder: Path, rows: list[dict[str, Any]], rejected: list[dict[str, str]]) -> dict[str, Any]:
    """What lies in a folder when its report is written. Returns the manifest."""
    index, statistics = [], []
    for split in SPLITS:
        here = [row for row in rows if row["split"] == split]
        if here:
            shard = f"{split}/shard-00000.parquet"
            (folder / split).mkdir(parents=True)
            full = [{**dict.fromkeys(SHARD_SCHEMA.names), **row} for row in here]
            table = pa.Table.from_pylist(full, schema=SHARD_SCHEMA)
            pq.write_table(table, folder / shard, row_group_size=4)
            statistics.append(Statistics.of(table))
            index += [{**row, "shard": shard, "row": place} for place, row in enumerate(here)]
    plain = [{name: row.get(name) for name in INDEX_SCHEMA.names} for row in index]
    pq.write_table(pa.Table.from_pylist(plain, schema=INDEX_SCHEMA), folder / "utterances.parquet", row_group_size=5)
    refusals = [{name: row.get(name) for name in REJECTED_SCHEMA.names} for row in rejected]
    pq.write_table(pa.Table.from_pylist(refusals, schema=REJECTED_SCHEMA), folder / "rejected.parquet")

    def count(here: list[dict[str, Any]]) -> dict[str, Any]:
        seconds = sum(row["duration_s"] for row in here)
        return {"num_utterances": len(here), "num_recordings": len(here), "hours": round(seconds / 3600, 6)}

    return {
        **count(rows),
        "fingerprint": "f" * 64,
        "language": "he",
        "num_recordings": len(rows) + len(rejected),
        "num_recordings_rejected": len(rejected),
        "rejected_by_reason": dict(Counter(row["reason"] for row in rejected)),
        "splits": {split: count([row for row in rows if row["split"] == split]) for split in SPLITS},
        "sources": {
            source: {
                **count([row for row in rows if row["source"] == source]),
                "num_rejected": sum(row["source"] == source for row in rejected),
                "language": "he",
                "splits": {
                    split: count([row for row in rows if (row["source"], row["split"]) == (source, split)])["hours"]
                    for split in SPLITS
                },
            }
            for source in sorted({row["source"] for row in [*rows, *rejected]})
        },
        "statistics": Statistics.merge(statistics).to_json(),
    }


def refusal(reason: str, source: str = "crowd") -> dict[str, str]:
    return {"utterance_id": "x", "recording_id": "x", "source": source, "reason": reason, "detail": "because"}


def example(reason: str, sound: bytes | None = b"ID3 some sound", **values: Any) -> Example:
    return Example(
        **{
            "reason": reason, "detail": "because", "recording_id": "x", "source": "crowd", "text": "מה נשמע",
            "audio_mp3": sound, **values,
        }
    )  # fmt: skip


Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a corpus and its report; returns the page."""

    def run(
        rows: list[dict[str, Any]] | None = None, rejected: list[dict[str, str]] | None = None, *examples: Example
    ) -> str:
        folder = tmp_path / "corpus"
        folder.mkdir()
        manifest = write_corpus(folder, rows or [utterance(number) for number in range(20)], rejected or [])
        page = write_report(folder, manifest, examples)
        assert page == folder / "report.html"
        first = page.read_bytes()
        assert write_report(folder, manifest, examples).read_bytes() == first
        return first.decode()

    return run


class Balance(html.parser.HTMLParser):
    """Fails at a tag that closes what is not open."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "rect", "line", "path", "image"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.references: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids[value or ""] += 1
            if name == "aria-labelledby" or (name == "href" and (value or "").startswith("#")):
                self.references.add((value or "").removeprefix("#"))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_every_reference_inside_it_leads_somewhere(write: Write):
    held_out = [utterance(number + 20, split=split) for number, split in enumerate(["validation", "test"] * 60)]
    rows = [*(utterance(number) for number in range(20)), *held_out, utterance(999, source="other", judge_wer=0.5)]
    page = write(rows, [refusal("too_short"), refusal("clipped", "other")], example("too_short"))
    assert page.startswith("<!doctype html>")
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert parser.ids.most_common(1)[0][1] == 1
    assert parser.references <= set(parser.ids)


def test_the_page_needs_nothing_from_elsewhere(write: Write):
    page = write(None, [refusal("too_short")], example("too_short"))
    assert not re.search(r"https?://|@import|<link|<script|<iframe", page)
    assert set(re.findall(r'(?:src|href)="([a-z]+:[a-z]+/[a-z]+|#)', page)) == {
        "data:audio/mpeg",
        "data:image/png",
        "#",
    }
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_other_peoples_text_cannot_put_markup_into_the_page(write: Write):
    attack = '"><script>alert(1)</script>'
    names = {"text": attack, "source": attack, "speaker_id": attack, "utterance_id": attack, "codec": attack}
    row = {**refusal(attack), "source": attack}
    page = write([utterance(1, **names)], [row], example(attack, detail=attack, text=attack, source=attack))
    assert "<script" not in page
    assert "&lt;script" in page


def test_hebrew_runs_from_right_to_left(write: Write):
    assert re.search(r'<p class="said" dir="rtl" lang="he">שלום עולם \d+</p>', write())


def test_random_utterances_can_be_read_heard_and_seen(write: Write):
    page = write()
    assert page.count('<audio controls preload="metadata" src="data:audio/mpeg;base64,') == 12
    assert page.count('<image href="data:image/png;base64,') == 12
    assert len(set(re.findall(r">שלום עולם (\d+)<", page))) == 12


def test_a_corpus_of_fewer_utterances_shows_each_once(write: Write):
    page = write([utterance(number) for number in range(3)])
    assert sorted(re.findall(r'class="said"[^>]*>שלום עולם (\d+)<', page)) == ["0", "1", "2"]


def test_of_a_long_utterance_only_the_beginning_is_played(write: Write):
    page = write([utterance(1, duration_s=40.0)])
    assert "the first 15 s" in page
    assert "<span>40.0 s</span>" in page
    assert len(page) < 400_000


def test_a_rejection_says_what_it_means_and_what_to_do_and_lets_one_listen(write: Write):
    page = write(None, [refusal("too_short")] * 3, example("too_short", b"first"), example("too_short", b"second"))
    assert explain("too_short").meaning in html.unescape(page)
    assert "<code>data.filters.min_duration_s</code>" in page
    for encoded in ("Zmlyc3Q=", "c2Vjb25k"):
        assert f'src="data:audio/mpeg;base64,{encoded}"' in page
    assert "מה נשמע" in page


def test_a_rejection_without_sound_says_why(write: Write):
    page = write(None, [refusal("undecodable_audio")], example("undecodable_audio", None, text=None))
    assert explain("undecodable_audio").why_silent in page
    assert "because" in page


def test_a_flag_that_a_source_invented_is_explained_too(write: Write):
    assert explain("recorded_in_a_tunnel").meaning in write(None, [refusal("recorded_in_a_tunnel")])


def test_every_error_of_a_recording_is_explained_in_its_own_words():
    kinds = [AudioError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    meanings = {kind.reason: explain(kind.reason).meaning for kind in kinds}
    assert len(set(meanings.values())) == len(meanings)
    assert explain("a flag").meaning not in meanings.values()


def test_many_reasons_do_not_make_the_page_heavy_and_each_keeps_a_sound(write: Write):
    reasons = [f"reason_{number:02d}" for number in range(25)]
    sounds = [example(reason, bytes(32_000)) for reason in reasons for _ in range(3)]
    page = write(None, [refusal(reason) for reason in reasons], *sounds)
    assert len(page.encode()) < 3_000_000
    assert "left out to keep this page small" in page
    for reason in reasons:
        assert f'aria-label="{reason}, example 1"' in page


def test_a_text_without_end_is_cut(write: Write):
    page = write(None, [refusal("too_long")], example("too_long", text="מילה " * 10_000, detail="x" * 10_000))
    assert page.count("מילה") < 150
    assert page.count("x" * 400) == 1


def test_a_language_written_from_left_to_right(tmp_path: Path):
    manifest = write_corpus(tmp_path, [utterance(1, language="en", text="good morning")], [])
    page = write_report(tmp_path, {**manifest, "language": "en"}, []).read_text()
    assert '<p class="said" dir="ltr" lang="en">good morning</p>' in page


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here to open the page with")
def test_on_a_phone_nothing_is_wider_than_the_screen(write: Write, tmp_path: Path):
    rows = [utterance(number, source="a-source-with-" + "a-long-" * 9 + "name") for number in range(14)]
    page = write(rows, [refusal("too_short")], example("too_short", detail="/a/path" * 40))
    measure = "<script>onload = () => parent.postMessage(document.documentElement.scrollWidth, '*')</script></body>"
    (tmp_path / "page.html").write_text(page.replace("</body>", measure))
    (tmp_path / "phone.html").write_text(
        "<script>onmessage = event => document.title = event.data</script>"
        '<iframe src="page.html" style="width: 360px; height: 700px; border: 0"></iframe>'
    )
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", f"file://{tmp_path / 'phone.html'}"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    width = re.search(r"<title>(\d+)</title>", answer.stdout)
    assert width, answer.stdout
    assert int(width[1]) <= 360


def test_small_amounts_are_said_in_minutes_and_seconds():
    assert [hours(value) for value in (1234.5, 12.34, 0.5, 0.005, 0.0)] == [
        "1,234 h",
        "12.3 h",
        "30.0 min",
        "18 s",
        "0 s",
    ]


# --- the verdict ------------------------------------------------------------------------------------------------------


def spoken(seconds: float, *, split: str = "train", num_speakers: int = 100) -> dict[str, Counter[str]]:
    return {split: Counter({f"s{number}": seconds / num_speakers for number in range(num_speakers)})}


@pytest.fixture
def fit(tmp_path: Path) -> dict[str, Any]:
    """The manifest of a corpus that nothing is wrong with: a small one, its amounts multiplied."""
    rows = [utterance(number, duration_s=2.0, text="שלום לכולם, מה שלומכם?", codec="flac") for number in range(9)]
    rows += [utterance(number, split=split) for number, split in ((10, "validation"), (11, "test"))]
    manifest = write_corpus(tmp_path, rows, [])
    for split, amount in (("train", 100.0), ("validation", 1.0), ("test", 1.0)):
        manifest["splits"][split] |= {"hours": amount, "num_utterances": round(1000 * amount)}
    manifest["num_utterances"] = 102_000
    return manifest


def said(manifest: dict[str, Any], speakers: Speakers | None = None, refusals: Any = None) -> list[tuple[str, str]]:
    found = examine(manifest, speakers or Speakers(spoken(100.0)), refusals or {})
    return [(finding.level, finding.title) for finding in found]


def test_of_a_good_corpus_there_is_nothing_to_say(fit: dict[str, Any]):
    assert said(fit) == []


def histogram(quantity: str, bin_width: float, counts: list[int]) -> dict[str, Any]:
    """A change of the manifest."""
    changed = {"start": 0.0, "bin_width": bin_width, "counts": counts}
    return {"statistics": {"quantities": {quantity: {"histogram": changed}}}}


@pytest.mark.parametrize(
    ("change", "level", "title"),
    [
        ({"splits": {"train": {"hours": 0.0, "num_utterances": 0}}}, "bad", "There is nothing to train on"),
        ({"splits": {"train": {"hours": 0.5}}}, "warning", "Very short: 30 minutes to train on"),
        ({"splits": {"train": {"hours": 5.0}}}, "warning", "Short: 5.0 hours to train on"),
        ({"splits": {"test": {"num_utterances": 0}}}, "warning", "No test split: nothing to say how good the model is"),
        ({"splits": {"test": {"num_utterances": 1}}}, "warning", "Only 1 utterance in test"),
        ({"rejected_by_reason": {"too_short": 9000, "clipped": 9000, "silent": 2000}}, "warning",
         "16% was rejected, mostly as clipped (9,000)"),
        ({"rejected_by_reason": {"too_short": 200_000}}, "bad", "66% was rejected, mostly as too_short (200,000)"),
        ({"sources": {"crowd": {"num_utterances": 0}}}, "bad", "The source crowd gave nothing"),
        ({"statistics": {"num_clipped": 2}}, "warning", "18% of the utterances are clipped"),
        ({"statistics": {"quantities": {"level_dbfs": {"quantiles": {"p50": -55.0}}}}}, "warning",
         "Very soft: half of the utterances lie below -55 dBFS"),
        ({"statistics": {"sources": {"crowd": {"quantities": {"snr_db": {"quantiles": {"p50": 4.0}}}}}}}, "warning",
         "Noisy: the median signal-to-noise ratio is 4 dB in crowd"),
        ({"statistics": {"native_sample_rates": {"8000": {"hours": 99.0}}, "hours": 100.0}}, "note",
         "99% was recorded below 16 kHz"),
        ({"statistics": {"characters": [{"character": "ж", "count": 30, "is_unexpected": True}], "num_chars": 300}},
         "warning", "10.0% of the characters do not belong to Hebrew: ж"),
        ({"statistics": {"quantities": {"judge_wer": {"quantiles": {"p50": 0.9}}}}}, "warning",
         "The model that checks meanings disagrees: median WER 90%"),
        ({"statistics": {"quantities": {"speech_share": {"quantiles": {"p50": 0.3}}}}}, "warning",
         "Half of the utterances are less than 30% speech"),
        (histogram("duration_s", 0.5, [1, 1, 6]), "warning",
          "25% of the utterances are shorter than 1 s"),
        (histogram("chars_per_s", 1.0, [0] * 11 + [8] + [0] * 28 + [2]), "warning",
          "20% of the utterances have far more or far less text than their length suggests"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(fit: dict[str, Any], change: dict[str, Any], level: str, title: str):
    assert (level, title) in said(merged(fit, change))


def merged(values: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`values` with a change deep inside."""
    nested = {
        key: merged(values.get(key, {}), value) if isinstance(value, dict) else value for key, value in change.items()
    }
    return {**values, **nested}


def test_a_source_that_gave_nothing_names_its_main_reason(fit: dict[str, Any]):
    dead = {"num_utterances": 0, "num_rejected": 9, "hours": 0.0}
    found = said(merged(fit, {"sources": {"dead": dead}}), refusals={"dead": Counter(silent=3, clipped=6)})
    assert ("bad", "The source dead gave nothing; mostly clipped (6)") in found


def test_few_voices_shared_voices_and_unknown_voices_are_said(fit: dict[str, Any]):
    assert ("note", "Nobody says who speaks") in said(fit, Speakers())
    assert ("warning", "Only 2 speakers") in said(fit, Speakers(spoken(10.0, num_speakers=2)))
    shared = Speakers(spoken(10.0) | spoken(1.0, split="test", num_speakers=3))
    assert ("note", "3 of 3 test speakers are also heard in training") in said(fit, shared)
    one = Speakers({"train": Counter({"ruth": 90_000.0, **dict.fromkeys(map(str, range(20)), 100.0)})})
    many_hours = merged(fit, {"statistics": {"hours": 25.6}})
    assert ("warning", "One speaker, ruth, says 98% of it") in said(many_hours, one)


def test_the_worst_comes_first_and_every_finding_says_what_to_do(fit: dict[str, Any]):
    change = {"splits": {"train": {"hours": 0.0}, "validation": {"num_utterances": 5}, "test": {"num_utterances": 5}}}
    found = examine(merged(fit, change), Speakers(), {})
    assert [finding.level for finding in found] == ["bad", "warning", "note", "note"]
    assert all(isinstance(finding, Finding) and finding.remedy.endswith(".") for finding in found)


# --- pictures ---------------------------------------------------------------------------------------------------------


def quantity(values: list[float]) -> dict[str, Any]:
    rows = [{"duration_s": value, "text": "א", "split": "train", "source": "a", "language": "he", "codec": "x",
             "native_sample_rate": 1, "num_text_chars": 1} for value in values]  # fmt: skip
    full = [{**dict.fromkeys(SHARD_SCHEMA.names), **row} for row in rows]
    table = pa.Table.from_pylist(full, schema=SHARD_SCHEMA)
    found: dict[str, Any] = Statistics.of(table).to_json()["quantities"]["duration_s"]
    return found


def test_every_utterance_is_in_one_bar_and_bars_stay_inside_the_axes():
    numbers = quantity([0.3, 1.0, 1.1, 2.0, 7.4, 29.9])
    chart = draw_histogram(numbers, {"train": numbers})
    assert sum(bar.counts[0] for bar in chart.bars) == sum(bar.counts[1] for bar in chart.bars) == 6
    assert len(chart.bars) <= 40
    assert all(chart.left <= bar.x <= chart.right and chart.top <= bar.y <= chart.base for bar in chart.bars)
    assert all(chart.left <= x <= chart.right for x, _ in chart.x_ticks)


def test_an_outlier_does_not_press_the_others_into_one_bar():
    chart = draw_histogram(quantity([1 + number / 100 for number in range(900)] + [1150.0]), {})
    assert chart.bars[-1].label.endswith("and more")
    assert sum(bar.counts[0] > 0 for bar in chart.bars) > 10
    assert sum(bar.counts[0] for bar in chart.bars) == 901


def test_one_single_value_is_a_chart_too():
    chart = draw_histogram(quantity([2.0]), {})
    assert [bar.counts for bar in chart.bars] == [(1,)]


def test_a_spectrogram_is_a_picture_with_its_tone_where_it_belongs():
    import base64
    import zlib

    samples = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE)).astype(np.float32)
    picture = draw_spectrogram(samples, RATE)
    png = base64.b64decode(picture.uri.partition(",")[2])
    content = png[png.index(b"IDAT") + 4 : png.index(b"IEND") - 8]
    lines = np.frombuffer(zlib.decompress(content), np.uint8).reshape(picture.height, picture.width + 1)[:, 1:]
    rows = np.cumsum(lines, axis=0, dtype=np.uint8)  # undoes the PNG's filter
    brightest = int(rows[:, picture.width // 2].argmax()) / picture.height
    place_of_1_khz = dict((text, share) for share, text in picture.hz_ticks)["1"]
    assert abs(brightest - place_of_1_khz) < 0.03
    assert [text for _, text in picture.s_ticks] == ["0.0", "0.5", "1.0", "1.5", "2.0"]


@pytest.mark.parametrize("duration_s", [0.05, 600.0])
def test_the_shortest_and_the_longest_sound_have_a_spectrogram(duration_s: float):
    samples = np.random.default_rng(0).normal(size=round(duration_s * RATE)).astype(np.float32)
    assert 1 <= draw_spectrogram(samples, RATE).width <= 481


def test_silence_has_a_spectrogram():
    assert draw_spectrogram(np.zeros(RATE, np.float32), RATE).width
