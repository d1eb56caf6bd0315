"""OpenAI's contract, field by field: the official client against the HTTP side, over a model that a test scripts."""

import asyncio
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx2 as httpx
import numpy as np
import openai
import pytest
import soundfile
from openai.types.audio.transcription_create_params import TranscriptionCreateParamsStreaming

from caspi.audio import SAMPLE_RATE, encode_flac
from tests.serve.scripted import Server
from tests.speech import lay, speak, spoken

CLIP = ("speech.flac", spoken(2.0))
THREE_PARTS = ("three.flac", encode_flac(lay(20, (1, 3), (5, 6), (9, 15))))


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


def ask(server: Server, file: Any = CLIP, **fields: Any) -> Any:
    return server.client().audio.transcriptions.create(**{"file": file, "model": "caspi", **fields})


# --- formats


def test_json_has_text_language_usage_and_what_was_covered(server: Server) -> None:
    answer = ask(server)
    assert answer.text == "word 1"
    assert [language.code for language in answer.languages] == ["he"]
    assert answer.usage.model_dump() == {"type": "duration", "seconds": 2.0}
    assert answer.covered_seconds == 2.0
    assert answer.logprobs is None


def test_text_is_a_line(server: Server) -> None:
    assert ask(server, response_format="text") == "word 1\n"


def test_verbose_json_has_a_segment_for_each_stretch_of_speech(server: Server) -> None:
    answer = ask(server, THREE_PARTS, response_format="verbose_json", timestamp_granularities=["segment"])
    assert (answer.task, answer.language, answer.duration) == ("transcribe", "hebrew", 20.0)
    assert answer.covered_seconds == answer.usage.seconds == 20.0
    assert answer.text == " ".join(segment.text for segment in answer.segments)
    times = [(segment.start, segment.end) for segment in answer.segments]
    np.testing.assert_allclose(times, [(1, 3), (5, 6), (9, 15)], atol=0.1)
    assert all(isinstance(segment.compression_ratio, float) for segment in answer.segments)


def test_subtitles_are_of_their_media_types(server: Server) -> None:
    for kind, media_type in (("srt", "application/x-subrip"), ("vtt", "text/vtt")):
        answer = httpx.post(
            f"{server.url}/v1/audio/transcriptions", files={"file": THREE_PARTS}, data={"response_format": kind}
        )
        assert answer.headers["content-type"] == f"{media_type}; charset=utf-8"
        assert answer.text.count("-->") == 3


def test_the_async_client_works_too(server: Server) -> None:
    async def transcribe() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            return await client.audio.transcriptions.create(file=CLIP, model="caspi")

    assert asyncio.run(transcribe()).text == "word 1"


# --- fields


@pytest.mark.parametrize(
    "fields", [{"language": "he"}, {"language": "Hebrew"}, {"extra_body": {"languages": ["he"]}}], ids=str
)
def test_a_language_is_forced_by_code_or_by_name(server: Server, fields: dict[str, Any]) -> None:
    ask(server, **fields)
    assert server.model.clips[0].language == "he"


def test_prompt_and_keywords_are_context(server: Server) -> None:
    ask(server, prompt="תל אביב", extra_body={"keywords": ["רחוב", "הרצל"]})
    assert server.model.clips[0].prompt == "תל אביב רחוב, הרצל"


def test_log_probabilities_come_when_they_are_asked_for(server: Server) -> None:
    answer = ask(server, include=["logprobs"])
    assert [(entry.token, entry.logprob) for entry in answer.logprobs] == [("word", -0.25), (" 1", -0.5)]
    assert bytes(map(int, answer.logprobs[1].bytes)) == b" 1"


def test_a_pause_of_the_clients_choice_cuts(server: Server) -> None:
    words = ("words.flac", encode_flac(lay(12, (1, 2), (2.4, 3.4), (3.8, 4.8))))
    how: Any = {"type": "server_vad", "silence_duration_ms": 200, "threshold": 0.4, "prefix_padding_ms": 100}
    assert len(ask(server, words, response_format="verbose_json").segments) == 1
    assert len(ask(server, words, response_format="verbose_json", chunking_strategy=how).segments) == 3
    as_json = httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        files={"file": words},
        data={"response_format": "verbose_json", "chunking_strategy": json.dumps(how)},
    )
    assert len(as_json.json()["segments"]) == 3


def test_auto_is_what_happens_anyway(server: Server) -> None:
    usual = ask(server, THREE_PARTS, response_format="verbose_json")
    auto = ask(server, THREE_PARTS, response_format="verbose_json", chunking_strategy="auto", temperature=0.7)
    assert [(s.start, s.end) for s in auto.segments] == [(s.start, s.end) for s in usual.segments]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"language": "klingon"}, "language", "invalid_language"),
        ({"extra_body": {"languages": ["he", "en"]}}, "languages", "invalid_value"),
        ({"response_format": "diarized_json"}, "response_format", "unsupported_value"),
        ({"response_format": "docx"}, "response_format", "unsupported_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": float("nan")}, "temperature", "invalid_value"),
        (
            {"timestamp_granularities": ["word"], "response_format": "verbose_json"},
            "timestamp_granularities",
            "unsupported_value",
        ),
        ({"timestamp_granularities": ["segment"]}, "timestamp_granularities", "unsupported_value"),
        ({"timestamp_granularities": ["letter"]}, "timestamp_granularities", "invalid_value"),
        ({"include": ["logprobs"], "response_format": "verbose_json"}, "include", "unsupported_value"),
        ({"include": ["everything"]}, "include", "invalid_value"),
        ({"stream": True, "response_format": "srt"}, "stream", "unsupported_value"),
        ({"chunking_strategy": "manual"}, "chunking_strategy", "invalid_value"),
        ({"chunking_strategy": {"type": "client_vad"}}, "chunking_strategy.type", "invalid_value"),
        (
            {"chunking_strategy": {"type": "server_vad", "threshold": 2}},
            "chunking_strategy.threshold",
            "invalid_value",
        ),
        ({"chunking_strategy": {"type": "server_vad", "x": 1}}, "chunking_strategy.x", "unknown_parameter"),
        ({"known_speaker_names": ["agent"]}, "known_speaker_names", "unsupported_value"),
        ({"prompt": "x" * 5000}, "prompt", "invalid_value"),
        ({"prompt": "x" * 3999, "extra_body": {"keywords": ["two"]}}, "keywords", "invalid_value"),
        ({"extra_body": {"beam_size": 5}}, "beam_size", "unknown_parameter"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_what_cannot_be_honoured_is_400_and_named(
    server: Server, fields: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(server, **fields)
    assert (refusal.value.param, refusal.value.code) == (param, code)
    assert server.model.clips == []


def test_an_empty_field_is_one_that_was_not_filled_in(server: Server) -> None:
    fields = {"language": "", "prompt": "", "response_format": "", "temperature": ""}
    answer = httpx.post(f"{server.url}/v1/audio/transcriptions", files={"file": CLIP}, data=fields)
    assert answer.status_code == 200


# --- recordings


def test_silence_is_empty_text_and_never_reaches_the_model(server: Server) -> None:
    silence = ("silence.flac", encode_flac(np.zeros(5 * SAMPLE_RATE, np.float32)))
    answer = ask(server, silence, response_format="verbose_json")
    assert (answer.text, answer.language, answer.segments, answer.covered_seconds) == ("", "unknown", [], 5.0)
    assert server.model.clips == []


@pytest.mark.parametrize("duration_s", [0.1, 0.5, 29.0, 95.0])
def test_covered_seconds_are_input_seconds(server: Server, duration_s: float) -> None:
    answer = ask(server, ("speech.flac", spoken(duration_s)), response_format="verbose_json")
    assert answer.covered_seconds == answer.duration == duration_s
    assert sum(clip.duration_s for clip in server.model.clips) == pytest.approx(duration_s)
    assert max(clip.duration_s for clip in server.model.clips) <= 30


def libsndfile(kind: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, speak(2.0), SAMPLE_RATE, format=kind, subtype=subtype)
    return file.getvalue()


def ffmpeg(container: str, codec: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=48000, layout="mono")
        samples = np.repeat(speak(2.0), 3)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 48000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("wav", lambda: libsndfile("WAV")),
        ("flac", lambda: libsndfile("FLAC")),
        ("mp3", lambda: libsndfile("MP3")),
        ("ogg", lambda: libsndfile("OGG")),
        ("opus", lambda: libsndfile("OGG", "OPUS")),
        ("m4a", lambda: ffmpeg("ipod", "aac")),
        ("mp4", lambda: ffmpeg("mp4", "aac")),
        ("webm", lambda: ffmpeg("webm", "libopus")),
    ],
)
def test_every_format_is_read(server: Server, name: str, make: Any) -> None:
    answer = ask(server, (f"speech.{name}", make()), response_format="verbose_json")
    assert answer.text == "word 1"
    assert answer.duration == pytest.approx(2.0, abs=0.1)


def test_a_large_upload_is_read_from_its_file(server: Server) -> None:
    file = io.BytesIO()
    soundfile.write(file, speak(60), SAMPLE_RATE, format="WAV")
    assert ask(server, ("large.wav", file.getvalue())).covered_seconds == 60.0


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"these are not samples" * 9, "undecodable_audio"),
        (b"", "empty_audio"),
        (spoken(2)[:1000], "undecodable_audio"),
    ],
    ids=["not audio", "empty", "cut off"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_file_that_cannot_be_used_is_400(server: Server, content: bytes, code: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(server, ("notes.wav", content), stream=stream)
    assert (refusal.value.param, refusal.value.code) == ("file", code)
    assert "WebM" in refusal.value.message


# --- streaming


def test_deltas_joined_are_the_text(server: Server) -> None:
    events = list(ask(server, THREE_PARTS, stream=True, include=["logprobs"]))
    assert [event.type for event in events] == ["transcript.text.delta"] * 3 + ["transcript.text.done"]
    done = events[-1]
    assert "".join(event.delta for event in events[:-1]) == done.text == "word 1 word 2 word 3"
    assert done.usage.seconds == 20.0
    assert len(done.logprobs) == 6 and len(events[0].logprobs) == 2


def test_segments_are_streamed_with_verbose_json(server: Server) -> None:
    events = list(ask(server, THREE_PARTS, stream=True, response_format="verbose_json"))
    segments = [event for event in events if event.type == "transcript.text.segment"]
    np.testing.assert_allclose([(s.start, s.end) for s in segments], [(1, 3), (5, 6), (9, 15)], atol=0.1)
    assert [segment.id for segment in segments] == ["seg_0", "seg_1", "seg_2"]


def test_the_async_client_streams(server: Server) -> None:
    async def kinds() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            stream = await client.audio.transcriptions.create(file=CLIP, model="caspi", stream=True)
            return [event.type async for event in stream]

    assert asyncio.run(kinds()) == ["transcript.text.delta", "transcript.text.done"]


def test_silence_is_streamed_as_done(server: Server) -> None:
    silence = ("silence.flac", encode_flac(np.zeros(5 * SAMPLE_RATE, np.float32)))
    (done,) = list(ask(server, silence, stream=True))
    assert (done.type, done.text) == ("transcript.text.done", "")


def test_a_delta_comes_before_the_whole_is_done(server: Server) -> None:
    server.model.delay_s = 0.3
    hour = ("long.flac", spoken(500))
    num_asked = next((len(server.model.clips) for event in ask(server, hour, stream=True)), None)
    assert num_asked is not None and num_asked < 500 / 30


def test_a_failure_in_the_middle_is_an_event_that_the_client_raises(server: Server) -> None:
    server.model.fails_at = 3
    heard = []
    with pytest.raises(openai.APIError) as failure:
        heard.extend(event.type for event in ask(server, THREE_PARTS, stream=True))
    assert failure.value.code == "model_died"
    assert "transcript.text.done" not in heard


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_client_that_leaves_stops_the_work(server: Server, stream: str) -> None:
    server.model.delay_s = 30.0
    with httpx.Client(timeout=3.0) as client, pytest.raises(httpx.TimeoutException):
        client.post(f"{server.url}/v1/audio/transcriptions", files={"file": THREE_PARTS}, data={"stream": stream})
    until = time.monotonic() + 20
    while server.model.num_cancelled < 3 and time.monotonic() < until:
        time.sleep(0.05)
    assert server.model.num_cancelled == len(server.model.clips) == 3


# --- the rest of the API


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/audio/transcriptions", 405, "method_not_allowed"),
        ("POST", "/v1/audio/translations", 404, "unknown_url"),
        ("GET", "/nothing", 404, "unknown_url"),
        ("DELETE", "/v1/models/caspi", 405, "method_not_allowed"),
        ("GET", "/v1/models/whisper-1", 404, "model_not_found"),
    ],
)
def test_the_frameworks_refusals_have_openais_body(
    server: Server, method: str, path: str, status: int, code: str
) -> None:
    answer = httpx.request(method, server.url + path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"data": {"model": "caspi"}, "files": {"x": ("x", b"")}}, "file"),
        ({"data": {"file": "text"}, "files": {"x": ("x", b"")}}, "file"),
        ({"files": [("file", CLIP), ("file", CLIP)]}, None),
        ({"files": [("file", CLIP)], "data": {"prompt": "x" * 100_000}}, None),
        ({"content": b"--x\r\nnonsense", "headers": {"content-type": "multipart/form-data; boundary=x"}}, "file"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, None),
    ],
    ids=["no file", "file as text", "two files", "a huge field", "cut off", "no boundary"],
)
def test_a_form_that_is_none_is_400(server: Server, body: dict[str, Any], param: str | None) -> None:
    answer = httpx.post(f"{server.url}/v1/audio/transcriptions", **body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_models_are_listed_and_found(server: Server) -> None:
    client = server.client()
    assert [model.id for model in client.models.list()] == ["caspi"]
    assert client.models.retrieve("caspi").owned_by == "caspi"
    with pytest.raises(openai.NotFoundError):
        ask(server, model="whisper-1")


# --- the description


def test_the_description_names_every_field_as_it_is_sent(server: Server) -> None:
    description = httpx.get(f"{server.url}/openapi.json").json()
    body = description["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]
    fields = set(body["content"]["multipart/form-data"]["schema"]["properties"])
    sent = set(TranscriptionCreateParamsStreaming.__annotations__)
    assert {field.removesuffix("[]") for field in fields} == sent
    assert {"timestamp_granularities[]", "include[]", "chunking_strategy"} <= fields


def test_every_reference_in_the_description_leads_somewhere(server: Server) -> None:
    description = httpx.get(f"{server.url}/openapi.json").text
    names = {f"#/components/schemas/{name}" for name in json.loads(description)["components"]["schemas"]}
    assert set(re.findall(r'"\$ref":\s*"([^"]+)"', description)) <= names


def test_the_page_of_the_api_needs_no_other(server: Server) -> None:
    page = httpx.get(f"{server.url}/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "timestamp_granularities[]" in page.text and "covered_seconds" in page.text
    assert "http" not in page.text.replace("http-equiv", "") and "<script" not in page.text


# --- what the guide shows

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "transcription-api.md"
EXAMPLES = [
    block
    for block in re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    if "OpenAI(" in block
]


@pytest.mark.parametrize("example", EXAMPLES, ids=["segments", "events"])
def test_the_guides_examples_run(
    server: Server, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lecture.mp3").write_bytes(libsndfile("MP3"))
    monkeypatch.chdir(tmp_path)
    exec(example.replace("http://127.0.0.1:8000", server.url), {})
    assert "word 1" in capsys.readouterr().out
