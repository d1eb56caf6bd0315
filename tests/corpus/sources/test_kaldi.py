import math
import random
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caspi.corpus.sources import lines, rxfilename
from caspi.corpus.sources.rxfilename import Place
from caspi.errors import SourceError
from tests.corpus.conftest import tone
from tests.corpus.sources.conftest import chunks_of, rows_of


def kaldi(path, **values):
    return {"kind": "kaldi", "path": path, **values}


def write_folder(path, **tables):
    """`wav_scp=[...]` and so on."""
    path.mkdir(exist_ok=True)
    for name, entries in tables.items():
        (path / name.replace("_", ".")).write_text("".join(f"{line}\n" for line in entries), encoding="utf-8")
    return path


def reasons(rows):
    return {row.row_id: row.problem[0] for row in rows if row.problem}


def test_a_recording_is_an_utterance_without_segments(tmp_path):
    (tmp_path / "a.wav").write_bytes(tone(0.1))
    folder = write_folder(
        tmp_path / "data",
        wav_scp=["dana-1 ../a.wav", f"dana-2   {tmp_path}/a.wav", "dana-3 gone.wav", "dana-4 ../a.wav", "dana-5"],
        text=["dana-2 שלום לכם", "dana-1 א", "dana-3 ב", "dana-5 ד", "dana-9 ה"],
        utt2spk=["dana-1 dana", "dana-2 dana"],
    )

    first, second, *others = rows_of(kaldi(folder))

    assert (first.row_id, first.transcript, first.speaker_id) == ("dana-1", "א", "dana")
    assert (second.recording_id, second.transcript, second.encoded) == ("dana-2", "שלום לכם", tone(0.1))
    assert reasons(others) == {
        "dana-3": "missing_audio",
        "dana-4": "missing_text",
        "dana-5": "malformed_row",
        "dana-9": "missing_audio",
    }


def test_segments_of_a_recording_are_one_row(tmp_path):
    (tmp_path / "call.wav").write_bytes(tone())
    folder = write_folder(
        tmp_path,
        wav_scp=["call call.wav", "empty call.wav"],
        segments=["u2 call 5.5 7", "u1 call 0 2.25 A", "u3 call 8 -1", "u4 call x 9", "u5 lost 0 1", "u6 call 9 10"],
        text=["u1 א", "u2 ב", "u3 ג", "u7 ז", "u5 ה"],
        utt2spk=["u1 dana", "u2 rami"],
    )

    call, empty, *others = rows_of(kaldi(folder))

    assert (call.row_id, call.recording_id, call.transcript) == ("call", "call", None)
    assert [(one.segment_id, one.start_s, one.end_s, one.text, one.speaker_id) for one in call.segments] == [
        ("u1", 0.0, 2.25, "א", "dana"),
        ("u2", 5.5, 7.0, "ב", "rami"),
        ("u3", 8.0, math.inf, "ג", None),
        ("u6", 9.0, 10.0, "", None),
    ]
    assert empty.problem[0] == "missing_text"
    assert reasons(others) == {"u4@segments:4": "malformed_row", "u7": "missing_audio", "u5": "missing_audio"}


def test_tables_may_be_in_any_order_and_every_utterance_comes_once(tmp_path):
    (tmp_path / "a.wav").write_bytes(tone(0.1))
    names = [f"r{number:04d}" for number in range(500)]
    shuffled = random.Random(1).sample(names, len(names))
    folder = write_folder(
        tmp_path, wav_scp=[f"{name} a.wav" for name in names], text=[f"{name} אמר {name}" for name in shuffled]
    )

    chunks, rows = chunks_of(kaldi(folder)), rows_of(kaldi(folder))

    assert [chunk.num_rows for chunk in chunks] == [16] * 4 + [32] * 4 + [64] * 4 + [52]
    assert [(row.row_id, row.transcript) for row in rows] == [(name, f"אמר {name}") for name in names]


def test_a_changed_text_changes_the_version_of_every_chunk(tmp_path):
    folder = write_folder(tmp_path, wav_scp=["a a.wav"], text=["a א"])
    (before,) = chunks_of(kaldi(folder))
    write_folder(tmp_path, text=["a אב"])
    (after,) = chunks_of(kaldi(folder))
    assert before.version != after.version


def test_a_wav_is_read_out_of_an_archive(tmp_path):
    first, second = tone(0.1, frequency=300), tone(0.2, frequency=400)
    (tmp_path / "wav.ark").write_bytes(b"a " + first + b"b " + second + b"c fLaC....and more")
    at_b, at_c = len(b"a " + first + b"b "), len(b"a " + first + b"b " + second + b"c ")
    folder = write_folder(
        tmp_path,
        wav_scp=["a wav.ark:2", f"b wav.ark:{at_b}", f"c wav.ark:{at_c}", "d gone.ark:2"],
        text=["a א", "b ב", "c ג", "d ד"],
    )
    a, b, c, d = rows_of(kaldi(folder))
    assert (a.encoded, b.encoded) == (first, second)
    assert (c.problem[0], d.problem[0]) == ("unsupported_archive", "missing_audio")


def test_relative_paths_start_where_the_recipe_says(tmp_path):
    (tmp_path / "s5/wav").mkdir(parents=True)
    (tmp_path / "s5/wav/a.wav").write_bytes(tone(0.1))
    folder = write_folder(tmp_path / "data", wav_scp=["a wav/a.wav"], text=["a א"])
    assert rows_of(kaldi(folder))[0].problem[0] == "missing_audio"
    assert rows_of(kaldi(folder, audio_root=tmp_path / "s5"))[0].problem is None


def test_a_pipe_that_does_more_is_a_problem_with_the_command(tmp_path):
    folder = write_folder(tmp_path, wav_scp=["a sox a.wav -t wav - speed 0.9 |"], text=["a א"])
    (row,) = rows_of(kaldi(folder))
    assert row.problem[0] == "unsupported_pipe"
    assert "sox a.wav -t wav - speed 0.9" in row.problem[1]


def test_bytes_that_are_no_text_are_a_problem(tmp_path):
    (tmp_path / "a.wav").write_bytes(tone(0.1))
    folder = write_folder(tmp_path, wav_scp=["a a.wav", "b a.wav"], text=["b ב"])
    with (folder / "text").open("ab") as text:
        text.write("a שלום\n".encode("cp1255"))
    assert reasons(rows_of(kaldi(folder))) == {"a": "malformed_row"}


def test_other_folders_are_errors(tmp_path):
    with pytest.raises(SourceError, match=r"no wav\.scp and no text in this folder"):
        chunks_of(kaldi(tmp_path))
    with pytest.raises(SourceError, match=r"wav\.scp: no line in it"):
        chunks_of(kaldi(write_folder(tmp_path, wav_scp=[], text=[])))


# --- what wav.scp may say ---


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("/data/a b.wav", Place("/data/a b.wav")),
        ("data/raw.ark:1234", Place("data/raw.ark", 1234)),
        ("s3://bucket/a.flac", Place("s3://bucket/a.flac")),
        ("sph2pipe -f wav /data/a.sph |", Place("/data/a.sph")),
        ("/opt/tools/sph2pipe -f wav -p a.sph|", Place("a.sph")),
        ("flac -c -d -s a.flac |", Place("a.flac")),
        ("flac -cds '/data/my file.flac' |", Place("/data/my file.flac")),
        ("sox a.mp3 -t wav - |", Place("a.mp3")),
        ("sox -t mp3 a.mp3 -r 16000 -c 1 -b 16 -t wav - |", Place("a.mp3")),
        ("ffmpeg -v 8 -i a.m4a -f wav -acodec pcm_s16le - |", Place("a.m4a")),
        ("ffmpeg -i http://host/a.m4a -ar 16000 -ac 1 -f wav pipe:1 |", Place("http://host/a.m4a")),
        ("cat שלום.wav |", Place("שלום.wav")),
    ],
)
def test_the_file_is_taken_from_what_only_unpacks_it(text, place):
    assert rxfilename.parse(text) == place


@pytest.mark.parametrize(
    "text",
    [
        "sph2pipe -f wav -c 1 a.sph |",  # one of two speakers
        "sph2pipe -t 0:10 a.sph |",
        "sox a.wav -t wav - remix 1 |",
        "sox a.wav -t wav - speed 0.9 |",
        "sox -v 0.5 a.wav -t wav - |",
        "sox a.wav b.wav -t wav - |",
        "sox a.wav b.wav |",
        "ffmpeg -ss 5 -i a.wav -f wav - |",
        "ffmpeg -i a.wav -i b.wav -f wav - |",
        "ffmpeg -i a.wav -af atempo=0.9 -f wav - |",
        "ffmpeg -i a.wav out.wav |",
        "flac -c a.wav |",  # packs
        "cat a.wav b.wav |",
        "cat a.wav | sox -t wav - -t wav - |",
        "cat a.wav; rm -rf x |",
        "cat $(ls) |",
        "cat `ls` |",
        "cat < a.wav |",
        "cat |",
        "cat - |",
        "wav-copy ark:a.ark - |",
        "cat 'a.wav |",
        "|",
        "-",
    ],
)
def test_any_other_command_is_unsupported(text):
    with pytest.raises(rxfilename.Unsupported) as refused:
        rxfilename.parse(text)
    assert refused.value.reason == "unsupported_pipe"


paths = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1).filter(
    lambda path: path[0] not in "-|" and "$" not in path and "`" not in path and set(path) - set("|&;<>()")
)


@given(paths)
def test_every_quoted_path_comes_out_of_a_pipe(path):
    for command in ("cat {}", "sph2pipe -f wav {}", "flac -c -d -s {}", "sox {} -t wav -", "ffmpeg -i {} -f wav -"):
        if not path.startswith("pipe:"):
            assert rxfilename.parse(f"{command.format(shlex.quote(path))} |") == Place(path)


@given(st.text())
def test_whatever_wav_scp_says_is_a_place_or_unsupported(text):
    try:
        assert rxfilename.parse(text).path
    except rxfilename.Unsupported as error:
        assert error.reason in ("unsupported_pipe", "malformed_row")


words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=4)


@given(st.lists(st.tuples(words, st.text("אבג xyz", max_size=80)), max_size=30), st.lists(words, max_size=5))
def test_an_index_finds_the_lines_of_each_key_in_order(tmp_path_factory, table, others):
    path = tmp_path_factory.mktemp("index") / "text"
    path.write_text("\n".join(f"{key} {said}" for key, said in table), encoding="utf-8")
    keys = [key.encode() for key in [*dict(table), *others]]

    found = lines.LineIndex(str(path), lines.first_word).find(keys)

    for key in keys:
        expected = [f"{name} {said}".encode() for name, said in table if name.encode() == key]
        assert found.get(key, []) == expected
