"""Sources in different languages: each row is normalized, judged and told apart by its own."""

import pytest

from caspi.corpus import prepare
from caspi.corpus.meaning import judge
from caspi.corpus.planning import make_plan
from caspi.corpus.preparation import Preparer
from caspi.corpus.rows import Chunk, Row
from caspi.corpus.staging import Stage, stage_rows
from caspi.inference.transcription import Transcription
from caspi.recipe.data import Meaning
from tests.corpus.conftest import recipe, tone, write_jsonl


@pytest.fixture
def speech(tmp_path):
    """Path of a JSONL source of the given texts, a recording of another pitch each."""

    def write(name, *texts):
        lines = []
        for number, text in enumerate(texts):
            (tmp_path / f"{name}{number}.wav").write_bytes(tone(1.0, frequency=300 + 10 * len(name) + number))
            lines.append({"id": f"{name}{number}", "audio": f"{name}{number}.wav", "text": text})
        return {"kind": "jsonl", "path": write_jsonl(tmp_path / f"{name}.jsonl", lines), "split": "train"}

    return write


@pytest.mark.usefixtures("ray_2_cpus")
def test_each_source_is_judged_and_counted_by_its_own_language(speech, tmp_path):
    hebrew, english = speech("he", "שלום עולם", "good morning"), speech("english", "Good morning", "שלום", "thank you")
    corpus = prepare(recipe(hebrew, {**english, "language": "en"}), tmp_path / "corpus")

    languages = dict(zip(*(corpus.utterances[name].to_pylist() for name in ("utterance_id", "language")), strict=True))
    assert languages == {"he0": "he", "english0": "en", "english2": "en"}
    assert {each.utterance_id: each.language for each in corpus.iter_utterances("train")} == languages
    assert corpus.manifest["rejected_by_reason"] == {"wrong_script": 2}
    assert corpus.manifest["statistics"]["languages"] == {
        "en": {"num_utterances": 2, "hours": round(2 / 3600, 6)},
        "he": {"num_utterances": 1, "hours": round(1 / 3600, 6)},
    }
    of_source = {name: each["language"] for name, each in corpus.manifest["sources"].items()}
    assert of_source == {"he": "he", "english": "en"}
    page = (corpus.path / "report.html").read_text(encoding="utf-8")
    assert "Corpus of English and Hebrew speech" in page
    assert '<p class="said" dir="rtl" lang="en">' not in page
    assert '<p class="said" dir="ltr" lang="en">Good morning</p>' in page


def test_a_key_follows_the_language_of_its_rows_alone(speech):
    first, second = speech("a", "שלום"), speech("b", "shalom")

    def keys(of_the_recipe, **own):
        return make_plan(recipe(first, {**second, **own}, language=of_the_recipe).data).keys

    plain, own = keys("he"), keys("he", language="en")
    assert own[0] == plain[0]
    assert own[1] != plain[1]
    assert keys("he", language="he") == plain
    assert keys("en")[1] == own[1]


def test_the_judge_of_meaning_hears_and_scores_each_utterance_in_its_language(tmp_path):
    class Listener:
        def transcribe_batch(self, clips, *, languages=None):
            asked.extend(languages)
            return [Transcription(text="THANK YOU!", language="English", duration_s=1.0) for _ in clips]

    asked: list[str] = []
    source = {"kind": "folder", "path": "/speech", "language": "en"}
    data = recipe(source).data.for_source(0)
    stage = Stage(tmp_path)
    rows = iter([Row("r", "r", "Thank you", tone())])
    ledger = stage_rows(rows, Chunk(0, "/speech", 1), "abc", "speech", data, Preparer(data), stage)
    judged = judge(ledger, stage.path, Listener(), Meaning(model="m"))
    assert asked == ["en"]
    assert judged["judge_wer"].to_pylist() == [0.0]
