"""What can be evaluated: models of several kinds, endpoints, and hypotheses made elsewhere."""

import collections
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caspi.corpus.format import Corpus
from caspi.errors import ModelError, RequestError, ServingError
from caspi.evaluation import evaluate
from caspi.evaluation.compare_systems import compare_systems, describe
from caspi.evaluation.results import Results
from caspi.evaluation.systems import open_system
from tests.evaluation.endpoint_double import Answer, endpoint

LETTERS = "אבגדהוזחטי"


def clips(*levels: float, duration_s: float = 0.5) -> list[np.ndarray]:
    return [np.full(int(16000 * duration_s), level, np.float32) for level in levels]


def transcribe(name: str, audio: list[np.ndarray], language: str | None = "he") -> list[str]:
    system = pickle.loads(pickle.dumps(open_system(name)))  # as it travels to the actors
    return [each.text for each in system.load().transcribe_batch(audio, languages=[language] * len(audio))]


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("runs/mine/run/model", "caspi"),
        ("models:/caspi-he@champion", "caspi"),
        ("Qwen/Qwen3-ASR-1.7B-hf", "caspi"),
        ("hf:openai/whisper-large-v3", "huggingface"),
    ],
)
def test_a_name_says_what_it_is_and_nothing_is_loaded(name: str, kind: str):
    system = open_system(name)
    assert (system.name, system.kind) == (name, kind)


# --- files -----------------------------------------------------------------------------------------------------------


def write(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8")
    return f"file:{path}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "made.jsonl",
            '{"utterance_id": "a", "text": "שלום, עולם", "score": 1}\n\n{"utterance_id": "b", "text": ""}\n',
        ),
        ("made.csv", '\ufeffscore,utterance_id,text\n1,a,"שלום, עולם"\n2,b,\n'),
    ],
)
def test_hypotheses_are_read_by_their_ids(tmp_path: Path, name: str, content: str):
    hypotheses: Any = open_system(write(tmp_path / name, content)).load()
    assert hypotheses.recall(["b", "a"]) == ["", "שלום, עולם"]
    with pytest.raises(RequestError, match="no line for 1 of 2 utterances, 'c' for instance"):
        hypotheses.recall(["a", "c"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("made.txt", "a", r"expected a \.jsonl or \.csv file"),
        ("made.jsonl", "", "no hypotheses in it"),
        ("made.jsonl", "{", "not readable as hypotheses"),
        ("made.jsonl", '{"utterance_id": "a", "hypothesis": "x"}', "row 1: found keys utterance_id, hypothesis"),
        ("made.jsonl", '{"utterance_id": "a", "text": null}', "row 1: found keys"),
        ("made.jsonl", "[1]", "row 1: found list"),
        ("made.csv", "utterance_id,text\na,x\na,y\n", "row 2: a second text for 'a'"),
    ],
)
def test_a_file_that_is_none_of_hypotheses_says_what_is_wrong(tmp_path: Path, name: str, content: str, message: str):
    with pytest.raises(RequestError, match=message):
        open_system(write(tmp_path / name, content))


def test_a_file_that_is_not_there_is_a_wrong_request(tmp_path: Path):
    with pytest.raises(RequestError, match="not readable as hypotheses"):
        open_system(f"file:{tmp_path / 'nowhere.jsonl'}")


# --- endpoints -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def hear_level(fields: dict[str, str], level: float) -> Answer:
    return 200, f"{fields['model']} {fields.get('language')} {level:.1f}"


def test_an_endpoint_answers_in_the_order_of_the_clips_and_is_told_the_language():
    with endpoint(hear_level, models=["best", "second"]) as url:
        texts = transcribe(f"{url}#second", clips(0.1, 0.2, 0.3, 0.4))
        assert texts == ["second he 0.1", "second he 0.2", "second he 0.3", "second he 0.4"]
        assert transcribe(f"{url}#second", clips(0.1), language=None) == ["second None 0.1"]
        answer = open_system(f"{url}#second").load().transcribe_batch(clips(0.1, duration_s=2.0), languages=["he"])[0]
        assert answer.duration_s == 2.0
        assert answer.latency_s is not None


def test_the_only_model_need_not_be_named_and_no_list_is_no_obstacle():
    with endpoint(hear_level, models=["best"]) as url:
        assert transcribe(url, clips(0.1)) == ["best he 0.1"]
    with endpoint(hear_level, models=[]) as url:
        assert transcribe(f"{url}#hidden", clips(0.1)) == ["hidden he 0.1"]


def test_a_wrong_model_key_or_address_is_known_before_anything_starts(monkeypatch: pytest.MonkeyPatch):
    with endpoint(hear_level, models=["best", "second"], key="right") as url:
        with pytest.raises(RequestError, match="the key in OPENAI_API_KEY is refused"):
            open_system(f"{url}#best")
        monkeypatch.setenv("OPENAI_API_KEY", "right")
        assert transcribe(f"{url}#best", clips(0.1)) == ["best he 0.1"]
        assert "right" not in repr(open_system(f"{url}#best"))
        with pytest.raises(RequestError, match=r"no model 'bset': .* it lists best, second"):
            open_system(f"{url}#bset")
        with pytest.raises(RequestError, match=r"say which of its models: .*#MODEL"):
            open_system(url)
    with pytest.raises(RequestError, match="no answer"):
        open_system(f"{url}#best")


def test_what_passes_is_tried_again():
    asked: collections.Counter[float] = collections.Counter()

    def hear(fields: dict[str, str], level: float) -> Answer:
        asked[round(level, 1)] += 1
        return (503, "later") if asked[round(level, 1)] <= 2 else (200, f"{level:.1f}")

    with endpoint(hear, models=["m"]) as url:
        assert transcribe(url, clips(0.1, 0.2)) == ["0.1", "0.2"]
    assert asked == {0.1: 3, 0.2: 3}


def test_a_clip_that_is_refused_is_unheard_and_an_endpoint_that_refuses_all_is_an_error():
    with endpoint(lambda fields, level: (400, "too short") if level > 0.15 else (200, "yes"), models=["m"]) as url:
        assert transcribe(url, clips(0.1, 0.2)) == ["yes", ""]
        with pytest.raises(ServingError, match=r"refuses every clip: .*too short"):
            transcribe(url, clips(0.2, 0.3))


def test_an_endpoint_that_breaks_ends_it():
    with (
        endpoint(lambda fields, level: (404, "gone"), models=["m"]) as url,
        pytest.raises(ServingError, match="gone"),
    ):
        transcribe(url, clips(0.1))


# --- transformers ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_ctc_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wav2vec 2.0 that learnt nothing and answers with some of ten letters."""
    import torch
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    folder = tmp_path_factory.mktemp("wav2vec2")
    vocabulary = {token: place for place, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(16,) * 7, num_conv_pos_embedding_groups=2, num_conv_pos_embeddings=16, pad_token_id=0,
    )  # fmt: skip
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    Wav2Vec2Processor(extractor, Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))).save_pretrained(folder)
    return folder


def test_a_model_of_transformers_answers_each_clip_as_it_would_alone(tiny_ctc_model: Path):
    random = np.random.default_rng(0)
    several = [random.normal(0, 0.1, int(16000 * s)).astype(np.float32) for s in (1.0, 0.4, 2.0, 1.5, 0.7, 31.0)]
    model: Any = open_system(f"hf:{tiny_ctc_model}").load()
    together = model.transcribe_batch(several, languages=["he"] * 6)
    assert all(answer.latency_s for answer in together)
    assert [each.duration_s for each in together] == [1.0, 0.4, 2.0, 1.5, 0.7, 31.0]
    assert len({each.text for each in together}) > 1
    for clip, answer in zip(several, together, strict=True):
        assert model.transcribe_batch([clip], languages=["he"])[0].text == answer.text


def test_a_folder_without_a_model_says_so(tmp_path: Path):
    with pytest.raises(ModelError, match="transformers finds no speech recognition model there"):
        open_system(f"hf:{tmp_path}").load()


@pytest.mark.skipif("CASPI_WHISPER_MODEL" not in os.environ, reason="CASPI_WHISPER_MODEL names no folder of a Whisper")
def test_whisper_hears_hebrew_and_refuses_what_it_does_not_know(material):
    model: Any = open_system(f"hf:{os.environ['CASPI_WHISPER_MODEL']}").load()
    from caspi import audio

    path = next(iter(sorted(material("speech/yesno").glob("*.wav"))))
    clip = audio.decode(path.read_bytes(), source=str(path)).samples
    words = model.transcribe_batch([clip], languages=["he"])[0].text
    assert "לא" in words or "כן" in words
    with pytest.raises(RequestError, match="does not know language 'xx'; it knows af, am"):
        model.transcribe_batch([clip], languages=["xx"])


# --- through evaluation and comparison -------------------------------------------------------------------------------


def write_hypotheses(corpus: Corpus, path: Path, *, wrong: tuple[int, ...]) -> str:
    lines = [
        {"utterance_id": row.utterance_id, "text": "אחר" if number in wrong else row.text}
        for number, row in enumerate(corpus.iter_utterances("test"))
    ]
    path.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), encoding="utf-8")
    return f"file:{path}"


@pytest.mark.usefixtures("ray_2_cpus")
def test_systems_of_three_kinds_are_evaluated_and_compared(corpus: Corpus, tiny_ctc_model: Path, tmp_path: Path):
    def hear(fields: dict[str, str], level: float) -> Answer:
        return 200, f"המספר הוא {round(level * 100)}"

    made = write_hypotheses(corpus, tmp_path / "made.jsonl", wrong=(0, 1, 2))
    with endpoint(hear, models=["m"]) as url:
        systems = [f"elsewhere={made}", f"endpoint={url}", f"noise=hf:{tiny_ctc_model}"]
        comparison = compare_systems(systems, corpus=corpus.path, output=tmp_path / "out")
        again = compare_systems(systems[:2], corpus=corpus.path, output=tmp_path / "out")  # nothing is asked again
    assert comparison.names == ("elsewhere", "endpoint", "noise")
    kinds = [system["system"]["kind"] for system in comparison.summary["systems"]]
    assert kinds == ["file", "endpoint", "huggingface"]
    wers = [system["wer"] for system in comparison.summary["systems"]]
    assert wers[0] == pytest.approx(9 / 30)
    assert wers[1] == pytest.approx(3 / 30)  # it speaks where nobody does
    assert wers[2] > 0.9
    assert comparison.summary["systems"][0]["rtfx"] is None
    assert comparison.summary["test_set"]["num_utterances"] == 11
    assert again.summary["pairs"][0] == comparison.summary["pairs"][0]
    assert (tmp_path / "out" / "comparison.json").is_file()
    text = describe(comparison)
    assert "endpoint against elsewhere: -20.00 points" in text

    evaluations = tmp_path / "out" / "evaluations"
    metrics = [Results.read(evaluations / name).metrics for name in ("elsewhere", "endpoint", "noise")]
    assert [metrics[0][name] for name in ("rtfx", "transcribe_s", "latency_s", "transcribed")] == [None] * 4
    assert [each["transcribed"]["on"][0]["device"] is None for each in metrics[1:]] == [True, False]
    from_folders = compare_systems([str(evaluations / "elsewhere"), str(evaluations / "noise")], output=tmp_path / "2")
    assert from_folders.summary["pairs"][0]["wer_difference"] == comparison.summary["pairs"][1]["wer_difference"]


@pytest.mark.usefixtures("ray_2_cpus")
def test_half_a_letter_is_no_reason_to_lose_an_evaluation(corpus: Corpus, tmp_path: Path):
    made = write_hypotheses(corpus, tmp_path / "made.jsonl", wrong=(0,))
    path = tmp_path / "made.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("אחר", "\\ud83d"), encoding="utf-8")
    evaluate(made, corpus, output=tmp_path / "out")
    assert Results.read(tmp_path / "out").utterances["hypothesis"][0].as_py() == "?"


def test_a_file_that_lacks_an_utterance_is_refused_before_anything_starts(corpus: Corpus, tmp_path: Path):
    made = write(tmp_path / "made.jsonl", '{"utterance_id": "utterance-99", "text": "x"}\n')
    with pytest.raises(RequestError, match="no line for 11 of 12 utterances"):
        evaluate(made, corpus, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_compared_is_a_wrong_request(tmp_path: Path):
    with pytest.raises(RequestError, match="a: no evaluation yet; say with --corpus"):
        compare_systems(["a", "b"], output=tmp_path)
    with pytest.raises(RequestError, match=r"to compare: a, a; expected at least two.*NAME=SYSTEM"):
        compare_systems(["a", "a"], output=tmp_path, corpus=tmp_path)
    with pytest.raises(RequestError, match="expected at least two"):
        compare_systems(["a"], output=tmp_path, corpus=tmp_path)
