import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caspi.errors import RecipeError, SourceError
from tests.corpus.conftest import tone
from tests.corpus.sources.conftest import chunks_of, rows_of

# Release 17 and later.
COLUMNS = ["client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes"]
COLUMNS += ["age", "gender", "accents", "variant", "locale", "segment"]


def common_voice(path, **values):
    return {"kind": "common_voice", "path": path, **values}


def entry(number, sentence="שלום", client="c0ffee" * 20):
    personal = {"client_id": client, "age": "fourties", "gender": "male_masculine", "accents": "Galilee"}
    return {
        "path": f"common_voice_he_{number}.mp3",
        "sentence": sentence,
        "up_votes": "2",
        "down_votes": "0",
    } | personal


def write_table(path, entries, columns=COLUMNS):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(columns)]
    lines += [one if isinstance(one, str) else "\t".join(one.get(column, "") for column in columns) for one in entries]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def release(tmp_path):
    """A language's folder with one recording for each split, and one of nobody's."""
    folder = tmp_path / "he"
    (folder / "clips").mkdir(parents=True)
    for number, table in enumerate(["train", "dev", "test", "other"]):
        write_table(folder / f"{table}.tsv", [entry(number)])
        (folder / f"clips/common_voice_he_{number}.mp3").write_bytes(tone(0.1, frequency=200 + number))
    write_table(folder / "validated.tsv", [entry(number) for number in range(3)])
    write_table(folder / "reported.tsv", ["x\ty"], columns=["sentence_id", "sentence"])
    return folder


def test_a_release_brings_its_splits(release):
    rows = rows_of(common_voice(release))
    assert {row.row_id: row.split for row in rows} == {
        "common_voice_he_0": "train",
        "common_voice_he_1": "validation",
        "common_voice_he_2": "test",
    }
    assert rows[0].encoded == tone(0.1, frequency=200)
    assert {row.split for row in rows_of(common_voice(release, split="train"))} == {"train"}


def test_of_volunteers_only_a_hash_remains(release):
    rows = rows_of(common_voice(release))
    assert len({row.speaker_id for row in rows}) == 1
    assert len(rows[0].speaker_id) == 16
    assert not any(word in repr(rows) for word in ("c0ffee", "fourties", "male", "Galilee"))


def test_other_tables_are_read_where_they_are_asked_for(release):
    assert {row.split for row in rows_of(common_voice(release, tables=["validated"]))} == {None}
    assert [row.row_id for row in rows_of(common_voice(release / "other.tsv"))] == ["common_voice_he_3"]
    # A train table alone brings no validation, and a test table stays one.
    assert [row.split for row in rows_of(common_voice(release / "train.tsv"))] == [None]
    assert [row.split for row in rows_of(common_voice(release / "t*.tsv"))] == ["test", "train"]
    assert [row.split for row in rows_of(common_voice(release / "test.tsv"))] == ["test"]


def test_validated_is_not_read_beside_what_it_repeats(release):
    with pytest.raises(RecipeError, match="validated holds the clips of train"):
        chunks_of(common_voice(release, tables=["train", "validated"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(
    sentences=st.lists(
        st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1), min_size=1
    )
)
def test_sentences_come_back_as_they_were_written(tmp_path, sentences):
    path = write_table(tmp_path / "validated.tsv", [entry(number, text) for number, text in enumerate(sentences)])
    assert [row.transcript for row in rows_of(common_voice(path))] == sentences


@pytest.mark.parametrize("sentence", ['"שלום', 'הוא אמר "שלום" והלך', '"', "'", '""', "a\\tb", "x\u2028y\x0bz"])
def test_quotation_marks_do_not_swallow_the_next_line(tmp_path, sentence):
    path = write_table(tmp_path / "other.tsv", [entry(1, sentence), entry(2)])
    assert [row.transcript for row in rows_of(common_voice(path))] == [sentence, "שלום"]


def test_a_broken_line_is_a_row_with_a_problem(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/common_voice_he_1.mp3").write_bytes(tone(0.1))
    path = write_table(tmp_path / "other.tsv", ["just\tthree\tcells", entry(1), entry(2), {**entry(3), "path": ""}])
    with path.open("ab") as table:
        table.write(b"\xff" + "\t".join(["x"] * len(COLUMNS)).encode() + b"\n")

    rows = rows_of(common_voice(path, name="cv"))

    reasons = [row.problem and row.problem[0] for row in rows]
    assert reasons == ["malformed_row", None, "missing_audio", "missing_audio", "malformed_row"]
    assert rows[0].row_id == "cv/other:2"


def test_long_tables_are_cut_at_lines(tmp_path):
    path = write_table(tmp_path / "other.tsv", [entry(number) for number in range(200)])
    assert [chunk.num_rows for chunk in chunks_of(common_voice(path))] == [15, 16, 16, 16, 32, 32, 32, 32, 9]
    assert [row.row_id for row in rows_of(common_voice(path))] == [f"common_voice_he_{number}" for number in range(200)]


def test_other_tables_and_folders_are_errors(release, tmp_path):
    with pytest.raises(SourceError, match=r"reported\.tsv: no column client_id, path; found sentence_id, sentence"):
        chunks_of(common_voice(release / "reported.tsv"))
    with pytest.raises(SourceError, match="none of train, dev, test"):
        chunks_of(common_voice(tmp_path))
    with pytest.raises(SourceError, match="tables without a row"):
        chunks_of(common_voice(write_table(tmp_path / "train.tsv", [])))
