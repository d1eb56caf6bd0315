"""The endpoint as its users meet it: through the official `openai` client, over a real Ray Serve."""

import asyncio
import json
import os
import signal
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from caspi.audio import encode_flac
from caspi.errors import RequestError
from tests.serve.conftest import API_KEY, build_with, double, run
from tests.speech import lay, spoken

CLIP = ("speech.flac", spoken(2.0))


def ask(client: openai.OpenAI, file: Any = CLIP, **fields: Any) -> Any:
    return client.audio.transcriptions.create(**{"file": file, "model": "caspi", **fields})


def told(answer: Any) -> dict[str, Any]:
    """What the double was given."""
    return json.loads(answer.text)


def test_json_answers_text_and_the_seconds_that_were_heard(client: openai.OpenAI) -> None:
    answer = ask(client)
    assert told(answer)["prompt"] == ""
    assert answer.usage.model_dump() == {"type": "duration", "seconds": 2.0}


def test_text_answers_a_line(client: openai.OpenAI) -> None:
    answer = ask(client, response_format="text")
    assert answer.endswith("}\n") and "pid" in answer


def test_a_recording_in_parts_is_streamed_part_by_part(client: openai.OpenAI) -> None:
    parts = ("parts.flac", encode_flac(lay(12, (1, 3), (5, 6), (8, 11))))
    events = list(ask(client, parts, stream=True, response_format="verbose_json"))
    kinds = [event.type.removeprefix("transcript.text.") for event in events]
    assert kinds == ["delta", "segment"] * 3 + ["done"]
    assert "".join(event.delta for event in events[:-1:2]) == events[-1].text
    assert [round(event.start) for event in events[1:-1:2]] == [1, 5, 8]


def test_a_client_that_leaves_frees_its_place(base_url: str) -> None:
    minutes = ("minutes.flac", encode_flac(lay(29, *((2 * n, 2 * n + 1) for n in range(14)))))
    with (
        pytest.raises(openai.APITimeoutError),
        openai.OpenAI(base_url=f"{base_url}/v1", api_key=API_KEY, max_retries=0, timeout=1.5) as impatient,
    ):
        ask(impatient, minutes, prompt="slow")
    until = time.monotonic() + 20
    while "caspi_requests_in_flight{" in (metrics := get(base_url, "/metrics")):
        if metrics.split("caspi_requests_in_flight{")[1].split("}")[1].split()[0] == "0.0":
            return
        assert time.monotonic() < until, "still in flight"
        time.sleep(0.2)


@pytest.mark.parametrize("language", ["he", "Hebrew", "HEBREW"])
def test_a_language_is_a_code_or_a_name(client: openai.OpenAI, language: str) -> None:
    assert told(ask(client, language=language))["language"] == "he"


def test_without_a_language_the_model_decides(client: openai.OpenAI) -> None:
    assert told(ask(client))["language"] is None


def test_the_prompt_reaches_the_model(client: openai.OpenAI) -> None:
    assert told(ask(client, prompt="תל אביב"))["prompt"] == "תל אביב"


def test_the_async_client_works_too(base_url: str) -> None:
    async def transcribe() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key=API_KEY, max_retries=0) as client:
            return await client.audio.transcriptions.create(file=CLIP, model="caspi", response_format="json")

    assert "pid" in asyncio.run(transcribe()).text


def test_any_of_the_keys_is_good_and_another_is_401(client: openai.OpenAI) -> None:
    assert ask(client.with_options(api_key="second-key")).text
    with pytest.raises(openai.AuthenticationError) as refusal:
        ask(client.with_options(api_key="wrong"))
    assert refusal.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    ("file", "code"),
    [
        (("notes.wav", b"these are not samples" * 9), "undecodable_audio"),
        (("empty.wav", b""), "empty_audio"),
        (("cut.flac", spoken(2.0)[:1000]), "undecodable_audio"),
        (("long.flac", spoken(31)), "audio_too_long"),
    ],
    ids=["not audio", "empty", "cut off", "too long"],
)
def test_a_file_that_cannot_be_used_is_400_and_says_why(client: openai.OpenAI, file: Any, code: str) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(client, file=file)
    assert (refusal.value.param, refusal.value.code) == ("file", code)
    assert file[0] in refusal.value.message


def test_a_file_above_the_limit_is_413(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refusal:
        ask(client, file=("large.wav", b"\0" * 3 * 2**20))
    assert (refusal.value.status_code, refusal.value.code) == (413, "file_too_large")


def test_a_request_without_a_file_is_400(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        options: Any = {"headers": {"Content-Type": "multipart/form-data"}}
        client.post("/audio/transcriptions", cast_to=object, body={"model": "caspi"}, files={"x": b""}, options=options)
    assert (refusal.value.param, refusal.value.code) == ("file", "missing_required_parameter")


def test_another_model_is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refusal:
        ask(client, model="whisper-1")
    assert (refusal.value.param, refusal.value.code) == ("model", "model_not_found")


def test_a_bug_is_500_and_keeps_its_details_to_itself(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as failure:
        ask(client, prompt="a bug")
    assert failure.value.type == "server_error"
    assert "secrets" not in failure.value.message


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["caspi"]
    assert client.models.retrieve("caspi").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-transcribe")


def test_operators_need_no_key(base_url: str, client: openai.OpenAI) -> None:
    ask(client)
    assert get(base_url, "/healthz") == "ok\n"
    assert get(base_url, "/readyz").startswith("ready\ndouble version=")
    metrics = get(base_url, "/metrics")
    assert 'path="/v1/audio/transcriptions"' in metrics
    assert "caspi_audio_seconds_total" in metrics


def test_the_page_brings_everything_with_it(base_url: str) -> None:
    page = get(base_url, "/")
    assert "<title>Caspi" in page
    assert "https://" not in page and 'src="' not in page


def test_the_contract_is_described(base_url: str) -> None:
    paths = json.loads(get(base_url, "/openapi.json"))["paths"]
    assert "post" in paths["/v1/audio/transcriptions"]


def test_requests_that_arrive_together_share_forward_passes(client: openai.OpenAI) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = [told(answer) for answer in pool.map(lambda _: ask(client), range(16))]
    assert max(answer["batch"] for answer in answers) >= 4


def test_killing_the_model_while_requests_are_in_flight_loses_none(client: openai.OpenAI) -> None:
    victim = told(ask(client))["pid"]
    with ThreadPoolExecutor(12) as pool:
        pending = [pool.submit(ask, client, prompt="slow") for _ in range(12)]
        time.sleep(0.5)  # all are with the model by now; a forward pass takes a second
        assert not any(request.done() for request in pending)
        os.kill(victim, signal.SIGKILL)
        answers = [told(request.result()) for request in pending]
    assert all(answer["prompt"] == "slow" for answer in answers)
    assert victim not in {answer["pid"] for answer in answers}


def test_a_second_endpoint_on_one_cluster_is_refused(base_url: str) -> None:
    with pytest.raises(RequestError, match="already serves"), run(build_with(double())):
        pass
    assert get(base_url, "/healthz") == "ok\n"


def get(base_url: str, path: str) -> str:
    with urllib.request.urlopen(base_url + path, timeout=30) as response:
        return response.read().decode()
