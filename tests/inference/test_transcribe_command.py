"""`caspi transcribe`: files of any length to standard output."""

import io
import json
import types
from pathlib import Path

import numpy as np
import pytest

from caspi import Transcriber, audio
from caspi.cli import main
from caspi.recipe.sections import Inference
from tests.speech import lay, speak, spoken


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    path = tmp_path / "speech.flac"
    path.write_bytes(audio.encode_flac(lay(8, (1, 2), (4, 6))))
    return path


def transcribe(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(["transcribe", *map(str, arguments)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", ["text", "json", "verbose_json", "srt", "vtt"])
def test_every_format_of_the_endpoint_is_printed(
    kind: str, speech: Path, toy_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = transcribe(capsys, "--model", toy_model, "--format", kind, "--language", "he", speech)
    assert said.endswith("\n")
    if "json" in kind:
        assert json.loads(said)["covered_seconds"] == 8.0


def test_files_come_one_after_another_and_standard_input_among_them(
    speech: Path, toy_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(spoken(3))))
    said = transcribe(capsys, "--model", toy_model, "--format", "json", speech, "-", speech)
    first, second, third = map(json.loads, said.splitlines())
    assert (first["usage"]["seconds"], second["usage"]["seconds"]) == (8.0, 3.0)
    assert first == third


@pytest.mark.parametrize(
    ("content", "problem", "code"),
    [(None, "cannot be read", 2), (b"", "0 bytes", 1), (b"no sound at all " * 9, "text; expected an audio file", 1)],
    ids=["not there", "empty", "text"],
)
def test_what_cannot_be_transcribed_is_one_message(
    content: bytes | None,
    problem: str,
    code: int,
    tmp_path: Path,
    toy_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        (tmp_path / "speech.wav").write_bytes(content)
    assert main(["transcribe", "--model", str(toy_model), str(tmp_path / "speech.wav")]) == code
    said = capsys.readouterr()
    assert problem in said.err and said.out == ""


def test_long_samples_are_cut_and_silence_is_not_asked_about(toy_model: Path) -> None:
    transcriber = Transcriber.load(toy_model, limits=Inference(max_tokens_per_s=0.2))
    transcript = transcriber.transcribe(np.concatenate([speak(40), np.zeros(32000, np.float32)]), language="he")
    assert transcript.covered_s == transcript.duration_s == 42.0
    assert transcript.usage.speech_s < 41
    assert transcriber.transcribe(np.zeros(160_000, np.float32)).text == ""
