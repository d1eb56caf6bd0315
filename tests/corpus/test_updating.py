"""A corpus that grows: only what is new is prepared, and the result is as if all had been prepared at once."""

import json
import shutil

import pytest

from caspi.corpus import prepare
from caspi.corpus.commit import Work
from caspi.corpus.planning import make_plan
from caspi.corpus.staging import Stage
from caspi.corpus.updating import adopt
from tests.corpus.conftest import hashes, recipe, tone, write_jsonl

pytestmark = pytest.mark.usefixtures("ray_2_cpus")


def write_source(folder, name, numbers, *, text="מספר"):
    lines = []
    for number in numbers:
        (folder / f"{name}{number}.wav").write_bytes(tone(0.6 + number % 5 / 10, frequency=150 + 7 * number))
        lines.append({"id": f"{name}{number}", "audio": f"{name}{number}.wav", "text": f"{text} {number}"})
    lines.append({"id": f"{name}-missing", "audio": "nowhere.wav", "text": "שלום"})
    return {"kind": "jsonl", "path": write_jsonl(folder / f"{name}.jsonl", lines)}


def prepared_rows(**arguments):
    """Prepare, and say how many rows had to be prepared anew."""
    seen = []
    corpus = prepare(**arguments, on_progress=seen.append)
    return corpus, seen[-1].num_rows - seen[-1].num_rows_reused


def test_a_new_source_is_prepared_alone_and_the_bytes_are_those_of_one_run(tmp_path):
    first, second = write_source(tmp_path, "a", range(90)), write_source(tmp_path, "b", range(100, 140))
    shards = {"max_duration_s": 20}
    prepare(recipe(first, shards=shards), tmp_path / "grown")
    both = recipe(first, second, shards=shards)

    grown, num_new = prepared_rows(recipe=both, output=tmp_path / "grown", update=True)

    assert num_new == 41
    assert hashes(grown.path) == hashes(prepare(both, tmp_path / "at once").path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["at once", "grown"]


def test_another_bound_of_shards_prepares_nothing_again(tmp_path):
    source = write_source(tmp_path, "a", range(20))
    prepare(recipe(source), tmp_path / "corpus")
    small = recipe(source, shards={"max_duration_s": 3})
    corpus, num_new = prepared_rows(recipe=small, output=tmp_path / "corpus", update=True)
    assert num_new == 0
    assert len(list(corpus.path.glob("train/*.parquet"))) > 3


def test_another_filter_prepares_everything_again(tmp_path):
    source = write_source(tmp_path, "a", range(20))
    prepare(recipe(source), tmp_path / "corpus")
    strict = recipe(source, filters={"min_duration_s": 0.9})
    corpus, num_new = prepared_rows(recipe=strict, output=tmp_path / "corpus", update=True)
    assert num_new == 21
    assert corpus.manifest["rejected_by_reason"]["too_short"] > 0


def test_what_was_a_duplicate_comes_back_when_its_twin_leaves(tmp_path):
    first, second = write_source(tmp_path, "a", range(10)), write_source(tmp_path, "b", range(10))
    corpus = prepare(recipe(first, second), tmp_path / "corpus")
    assert corpus.manifest["rejected_by_reason"]["duplicate"] == 10
    alone = recipe(second)
    corpus, num_new = prepared_rows(recipe=alone, output=tmp_path / "corpus", update=True)
    assert num_new == 11
    assert corpus.manifest["num_utterances"] == 10
    assert hashes(corpus.path) == hashes(prepare(alone, tmp_path / "fresh").path)


def test_a_changed_file_is_read_again(tmp_path):
    source = write_source(tmp_path, "a", range(5))
    prepare(recipe(source), tmp_path / "corpus")
    write_source(tmp_path, "a", range(6))
    corpus, num_new = prepared_rows(recipe=recipe(source), output=tmp_path / "corpus", update=True)
    assert (num_new, corpus.manifest["num_recordings"]) == (7, 7)


def test_an_update_that_fails_leaves_the_corpus_as_it_was(tmp_path):
    source = write_source(tmp_path, "a", range(5))
    corpus = prepare(recipe(source), tmp_path / "corpus")
    before = hashes(corpus.path)
    nothing = write_jsonl(tmp_path / "nothing.jsonl", [{"id": "x", "audio": "none.wav", "text": "שלום"}])
    with pytest.raises(Exception, match="not one utterance"):
        prepare(recipe({"kind": "jsonl", "path": nothing}), tmp_path / "corpus", update=True)
    assert hashes(corpus.path) == before


def test_the_time_it_took_counts_only_what_was_prepared(tmp_path):
    source = write_source(tmp_path, "a", range(5))
    corpus = prepare(recipe(source), tmp_path / "corpus")
    prepare(recipe(source, shards={"max_duration_s": 1}), tmp_path / "corpus", update=True)
    speed = json.loads((corpus.path / "prepare.json").read_text())
    assert (speed["rtfx"], speed["hours_reused"]) == (0.0, corpus.manifest["hours"])


def test_what_an_interrupted_update_adopted_is_forgotten_when_the_corpus_is_another(tmp_path):
    source = write_source(tmp_path, "a", range(80))
    corpus = prepare(recipe(source), tmp_path / "corpus")
    stage = Stage(Work(corpus.path).parts)
    stage.path.mkdir(parents=True)
    adopt(corpus.path, make_plan(recipe(source).data).keys, stage)
    assert list(stage.path.glob("*/*.ledger.arrow"))

    shutil.rmtree(corpus.path)
    again, num_new = prepared_rows(recipe=recipe(source), output=corpus.path)
    assert num_new == 81
    assert again.fingerprint == corpus.fingerprint


def test_an_interrupted_update_goes_on_with_what_it_adopted(tmp_path):
    source = write_source(tmp_path, "a", range(80))
    corpus = prepare(recipe(source), tmp_path / "corpus")
    both = recipe(source, write_source(tmp_path, "b", range(100, 110)))
    stage = Stage(Work(corpus.path).parts)
    stage.path.mkdir(parents=True)
    adopt(corpus.path, make_plan(both.data).keys, stage)
    grown, num_new = prepared_rows(recipe=both, output=corpus.path, update=True)
    assert num_new == 11
    assert hashes(grown.path) == hashes(prepare(both, tmp_path / "at once").path)
