"""What holds for every kind of source."""

import os
from dataclasses import asdict
from typing import get_args

import pytest

from caspi.corpus.sources import KINDS, name_sources, plan_source, read_source, source_names
from caspi.errors import SourceError
from caspi.recipe import load_recipe
from caspi.recipe.sources import Source
from tests.corpus.conftest import recipe
from tests.corpus.sources.conftest import TEXTS, WRITERS, chunks_of, each_kind, jsonl, rows_of


def test_every_kind_of_a_recipe_has_its_module():
    models = get_args(get_args(Source)[0])
    assert set(KINDS) == set(models)
    assert {get_args(model.model_fields["kind"].annotation)[0] for model in models} == set(WRITERS)


@each_kind
def test_what_is_written_is_read(tmp_path, kind):
    rows = rows_of({"kind": kind, "path": tmp_path / WRITERS[kind](tmp_path)})
    assert [row.transcript for row in rows] == list(TEXTS.values())
    assert all(row.encoded and not row.problem for row in rows)
    assert len({row.row_id for row in rows}) == len({row.recording_id for row in rows}) == 3


@each_kind
def test_reading_again_gives_the_same(tmp_path, kind):
    source = {"kind": kind, "path": tmp_path / WRITERS[kind](tmp_path)}
    assert chunks_of(source) == chunks_of(source)
    assert rows_of(source) == rows_of(source)


@each_kind
def test_a_source_more_changes_no_chunk_of_the_others(tmp_path, kind):
    source = {"kind": kind, "path": tmp_path / WRITERS[kind](tmp_path)}
    other = {"kind": "jsonl", "path": tmp_path / "more" / WRITERS["jsonl"](tmp_path / "more")}

    def without_place(chunks):
        return [{**asdict(chunk), "source": None} for chunk in chunks]

    alone, first, last = chunks_of(source), chunks_of(source, other), chunks_of(other, source)
    assert without_place(first[: len(alone)]) == without_place(last[-len(alone) :]) == without_place(alone)


@each_kind
def test_changed_data_changes_the_version(tmp_path, kind):
    source = {"kind": kind, "path": tmp_path / WRITERS[kind](tmp_path)}
    before = chunks_of(source)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            os.utime(file, (1, 1))
    assert all(chunk.version for chunk in before)
    assert [chunk.version for chunk in chunks_of(source)] != [chunk.version for chunk in before]


@each_kind
def test_a_source_is_planned_and_read_by_itself(tmp_path, kind):
    (source,) = recipe({"kind": kind, "path": tmp_path / WRITERS[kind](tmp_path)}).data.sources
    rows = [row for chunk in plan_source(source, 7) for row in read_source(chunk, source, "held_out")]
    assert [row.transcript for row in rows] == list(TEXTS.values())
    assert {chunk.source for chunk in plan_source(source, 7)} == {7}


@each_kind
def test_the_recipe_may_say_the_split(tmp_path, kind):
    rows = rows_of({"kind": kind, "path": tmp_path / WRITERS[kind](tmp_path), "split": "test"})
    assert {row.split for row in rows} == {"test"}


@each_kind
def test_a_mistyped_path_is_an_error(tmp_path, kind):
    with pytest.raises(SourceError, match="no such"):
        rows_of({"kind": kind, "path": tmp_path / "spech"})


@each_kind
def test_an_empty_folder_is_an_error(tmp_path, kind):
    with pytest.raises(SourceError, match="in this folder"):
        rows_of({"kind": kind, "path": tmp_path})


@pytest.mark.parametrize("kind", sorted(set(WRITERS) - {"folder", "kaldi"}))
def test_a_pattern_without_a_match_is_an_error(tmp_path, kind):
    with pytest.raises(SourceError, match="matches no file"):
        rows_of({"kind": kind, "path": tmp_path / "*.x"})


@each_kind
def test_a_store_that_nobody_can_read_is_an_error(kind):
    with pytest.raises(SourceError, match="nosuch://"):
        rows_of({"kind": kind, "path": "nosuch://bucket/speech"})


@each_kind
def test_urls_are_read_like_paths(tmp_path, kind):
    rows = rows_of({"kind": kind, "path": f"file://{tmp_path}/{WRITERS[kind](tmp_path)}"})
    assert [(row.transcript, row.problem) for row in rows] == [(text, None) for text in TEXTS.values()]


def test_folders_of_the_same_files_do_not_share_ids(tmp_path):
    for place in ("one", "two"):
        WRITERS["folder"](tmp_path / place)
        WRITERS["webdataset"](tmp_path / place)
        WRITERS["nemo"](tmp_path / place)
    sources = [
        {"kind": kind, "path": tmp_path / place / path}
        for place in ("one", "two")
        for kind, path in (("folder", "speech"), ("webdataset", "shard-000.tar"), ("nemo", "train.json"))
    ]
    rows = rows_of(*sources)
    assert len({row.row_id for row in rows}) == len(rows) == 18


def test_sources_that_share_a_name_are_numbered():
    sources = [
        jsonl("a/train.jsonl"),
        jsonl("b/a/train.jsonl"),
        jsonl("c.jsonl"),
        {"kind": "hub_parquet", "path": "he-5/data/*.parquet", "name": "mine"},
        {"kind": "webdataset", "path": "s3://bucket/radio/shard-{000..127}.tar"},
        {"kind": "lhotse", "path": "calls/cuts.jsonl.gz"},
    ]
    assert source_names(recipe(*sources).data) == ["a", "a-2", "c", "mine", "radio", "calls"]


def test_a_name_that_is_given_twice_is_an_error():
    sources = recipe(jsonl("a.jsonl", name="mine"), jsonl("b.jsonl", name="mine")).data.sources
    with pytest.raises(SourceError, match="two sources are called mine"):
        name_sources(sources)


def test_every_path_of_a_source_is_relative_to_the_recipe(tmp_path):
    lines = [
        "data:",
        "  sources:",
        "    - {kind: lhotse, path: r.jsonl, supervisions: s.jsonl, audio_root: s3://bucket/wav}",
        "    - {kind: kaldi, path: data, audio_root: s5}",
        "  evaluation_sets:",
        "    sources: [{kind: folder, path: held_out}]",
    ]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines), encoding="utf-8")
    data = load_recipe(tmp_path / "recipe.yaml").data
    first, second = data.sources
    assert (first.path, first.supervisions) == (f"{tmp_path}/r.jsonl", f"{tmp_path}/s.jsonl")
    assert (first.audio_root, second.audio_root) == ("s3://bucket/wav", f"{tmp_path}/s5")
    assert data.evaluation_sets.sources[0].path == f"{tmp_path}/held_out"
