"""Starting and stopping the endpoint, and what it says when it cannot."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from caspi.errors import ModelError, RequestError, ServingError
from caspi.inference import serving
from serve.options import Options, parse
from tests.serve.conftest import build_with, double, run
from tests.speech import spoken

ROOT = Path(serving.__file__).parents[3]


@pytest.mark.parametrize("name", ["config.yaml", "config.local.yaml"])
def test_the_configs_are_what_serve_deploys(name: str) -> None:
    config = yaml.safe_load((ROOT / "serve" / name).read_text())
    schema = ServeDeploySchema.model_validate(config)
    options = parse(schema.applications[0].args)
    timeout_s = schema.http_options.request_timeout_s
    assert timeout_s is not None and timeout_s > options.max_request_s


def test_a_misspelt_argument_is_named_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"replcias: Extra inputs.*Known arguments: model, .*replicas"):
        parse({"model": "m", "replcias": 2})


def test_numbers_may_come_as_text_from_the_command_line() -> None:
    assert parse({"model": "m", "replicas": "3"}) == Options(model="m", replicas=3)


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(RequestError, match=f"cannot serve on 127.0.0.1:{port}"),
            serving.endpoint(tmp_path, port=port),
        ):
            pass


def test_a_model_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model"), serving.endpoint(tmp_path / "missing", port=0):
        pass


def test_a_public_address_without_keys_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CASPI_API_KEYS", raising=False)
    with pytest.raises(RequestError, match="CASPI_API_KEYS"), serving.endpoint(tmp_path, host="0.0.0.0"):
        pass


def test_an_installed_package_without_the_repository_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caspi.__file__", str(tmp_path / "a" / "b" / "caspi" / "__init__.py"))
    with pytest.raises(RequestError, match=r"no serve/app\.py"), serving.endpoint(tmp_path, port=0):
        pass


def test_a_model_that_cannot_load_ends_in_its_own_message(ray_2_cpus: None) -> None:
    def load() -> None:
        raise ValueError("the weights are missing")

    with pytest.raises(ServingError, match="the weights are missing"), run(build_with(load)):
        pass


def test_an_endpoint_ends_with_its_block(ray_2_cpus: None) -> None:
    with run(build_with(double())) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        assert client.audio.transcriptions.create(file=("a.flac", spoken(1.0)), model="caspi").text
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0


SERVE_UNTIL_STOPPED = """
import sys
from caspi.inference.serving import serve_until_stopped
serve_until_stopped(sys.argv[1], port=0, on_ready=lambda url: print(url, flush=True))
print("ended", flush=True)
"""


def test_sigterm_ends_it_quietly_and_leaves_no_process(toy_model: Path, tmp_path: Path) -> None:
    # From another folder and without PYTHONPATH's help for `serve`: the replicas have to find it all the same.
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform"), "CASPI_NUM_CPUS": "2"}
    environment |= {"CASPI_OBJECT_STORE_MB": "150"}
    command = [sys.executable, "-c", SERVE_UNTIL_STOPPED, str(toy_model)]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), process.communicate()
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        answer = client.audio.transcriptions.create(file=("a.flac", spoken(1.0)), model="caspi", language="he")
        assert answer.usage is not None and answer.usage.model_dump()["seconds"] == 1.0
        assert descendants_with(str(tmp_path)) != []
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "ended\n"), errors
    assert errors == ""
    time.sleep(1)
    assert descendants_with(str(tmp_path)) == []


def descendants_with(folder: str) -> list[str]:
    """Command lines of processes that still run in `folder`, which nothing but that command used."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd") == folder:
                found.append((process / "cmdline").read_text())
        except OSError:  # it ended meanwhile, or is not ours
            continue
    return found
