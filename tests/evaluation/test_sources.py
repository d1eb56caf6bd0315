"""A source of a recipe, judged whole."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from caspi.corpus.preparation import Preparer
from caspi.corpus.rows import Prepared, Row, Segment
from caspi.errors import RequestError, ResultsError
from caspi.evaluation import evaluate_source
from caspi.evaluation.public_numbers import TEST_SETS
from caspi.evaluation.sources import as_test_set
from caspi.inference.transcription import Transcription
from caspi.recipe import Recipe
from caspi.recipe.loading import load_recipe, parse_recipe
from tests.corpus.conftest import tone, write_jsonl


class SaysTheSame:
    """Writes gershayim as most transcripts do."""

    def transcribe_batch(self, clips: Any, *, languages: Any = None) -> list[Transcription]:
        return [Transcription('צה"ל הודיע', "Hebrew", 1.0) for _ in clips]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A training recipe whose filters would refuse most of its test set, and whose cutting would trim and join it."""
    texts = ["צה״ל הודיע", "צה״ל הודיע", "Thank you", "...", "צה״ל הודיע", "צה״ל הודיע", None]
    for number in range(len(texts)):
        (tmp_path / f"{number}.wav").write_bytes(tone(2.0, frequency=100 + number % 5))
    (tmp_path / "4.wav").write_bytes(b"not audio")
    write_jsonl(
        tmp_path / "heard.jsonl",
        [{"id": f"u{number}", "audio": f"{number}.wav", "text": text} for number, text in enumerate(texts)],
    )
    heard = {"kind": "jsonl", "path": "heard.jsonl", "name": "heard"}
    return parse_recipe(
        {
            "name": "train",
            "data": {
                "sources": [{"kind": "jsonl", "path": "speech.jsonl", "name": "speech"}],
                "evaluation_sets": {"sources": [heard]},
                "filters": {"max_duration_s": 1.0, "min_chars_per_s": 30},
                "cutting": {"trim_silence": True, "join_up_to_s": 1.0},
            },
        },
        base=tmp_path,
    )


@pytest.mark.usefixtures("ray_2_cpus")
def test_a_source_is_judged_whole_with_the_texts_as_they_were_written(recipe: Recipe, tmp_path: Path):
    output = tmp_path / "out"
    metrics = evaluate_source("double", recipe, "heard", output=output, factory=SaysTheSame)
    assert (metrics["num_utterances"], metrics["num_failed"]) == (5, 2)
    assert metrics["failed_by_reason"] == {"empty_text": 1, "undecodable_audio": 1}, "the sixth sounds like the first"
    assert metrics["test_set"]["num_utterances"] == 7
    assert metrics["scores"]["caspi"]["word_errors"] == 4, "of `Thank you`, and two words where nothing is written"
    assert metrics["scores"]["ivrit"]["word_errors"] == 10, "their normalization sees U+05F4 as it was written"
    assert metrics["num_hallucinated_on_silence"] == 1
    rows = {row["utterance_id"]: row for row in pq.read_table(output / "utterances.parquet").to_pylist()}
    assert (rows["u0"]["reference"], rows["u0"]["duration_s"]) == ("צה״ל הודיע", 2.0)
    assert (rows["u3"]["reference"], rows["u3"]["insertions"]) == ("...", 2)
    assert rows["u4"]["error"] == "undecodable_audio"

    again = evaluate_source("double", recipe, "heard", output=output, factory=SaysTheSame)
    assert again["test_set"] == metrics["test_set"]
    with pytest.raises(ResultsError, match=r"model_fingerprint 'double' .double. there, 'another' .another. here"):
        evaluate_source("another", recipe, "heard", output=output, factory=SaysTheSame)


def test_segments_are_judged_as_they_are(recipe: Recipe):
    data = as_test_set(recipe.data, "heard")
    assert (data.cutting.min_segment_s, data.cutting.join_up_to_s, data.cutting.trim_silence) == (0, None, False)
    recording = Row(
        "r", "r", None, tone(3.0), segments=(Segment(0.0, 0.2, "כן"), Segment(0.2, 2.0, ""), Segment(2.0, 3.0, "לא"))
    )
    prepared = list(Preparer(data).prepare(recording))
    assert [(each.start_s, each.end_s, each.text) for each in prepared if isinstance(each, Prepared)] == [
        (0.0, 0.2, "כן"), (0.2, 2.0, ""), (2.0, 3.0, "לא")
    ]  # fmt: skip


def test_a_source_that_is_not_there_is_named_with_those_that_are(recipe: Recipe):
    with pytest.raises(RequestError, match="no source called 'haerd'; it has heard, speech, and 'all'"):
        as_test_set(recipe.data, "haerd")


def test_all_is_every_source_as_one_test_set(recipe: Recipe):
    sources = as_test_set(recipe.data, "all").sources
    assert [(source.name, source.split) for source in sources] == [("heard", "test"), ("speech", "test")]


def test_the_recipes_of_public_test_sets_name_those_that_others_published_on():
    recipes = Path(__file__).parents[2] / "jobs" / "recipes"
    named = {
        source.name: source
        for recipe in ("hebrew_test_sets.yaml", "hebrew_common_voice.yaml")
        for source in as_test_set(load_recipe(recipes / recipe).data, "all").sources
    }
    assert sorted(named) == sorted(TEST_SETS)
