"""Models exchanged under a living endpoint: by alias, by `user_config`, and what a broken one changes."""

import json
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray.serve

from caspi import tracking
from caspi.errors import ModelError, RequestError
from caspi.inference import serving
from serve.versions import locate, pin
from tests.serve.conftest import run
from tests.serve.deploying import deploy, deployed
from tests.serve.load import Load
from tests.serve.registered import BROKEN, DEAF, build, register, register_folder

ROOT = Path(serving.__file__).parents[3]
BUILD = "tests.serve.registered:build"


@pytest.fixture(scope="module")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASPI_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with tracking.server() as uri:
            yield uri


@pytest.fixture
def new_version(mlflow_uri: str, tmp_path: Path) -> Callable[..., int]:
    def make(name: str, weight: float, alias: str | None = None) -> int:
        version = register(mlflow_uri, tmp_path, name, weight=weight)
        if alias:
            tracking.set_alias(mlflow_uri, name, alias, version)
        return version

    return make


def arguments(uri: str, home: Path, **args: Any) -> dict[str, Any]:
    python_path = serving._python_path(ROOT)
    worker_env = {"PYTHONPATH": python_path, "MLFLOW_TRACKING_URI": uri, "CASPI_HOME": str(home)}
    return {"num_cpus": 0.5, "worker_env": worker_env, "batch_wait_s": 0, **args}


def metrics(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def wait_until(claim: Callable[[], bool], *, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_alias_becomes_the_version_that_it_means(new_version: Callable[..., int], mlflow_uri: str) -> None:
    assert new_version("pinned", 1.0, "champion") == 1
    pinned = pin("models:/pinned@champion")
    assert pinned["model"] == "models:/pinned/1"
    new_version("pinned", 2.0, "champion")
    served = locate(pinned)
    assert (served.name, served.version, served.sha) == ("pinned", "1", pinned["sha"])
    assert Path(served.place).name == pinned["sha"]


def test_a_version_that_is_here_needs_no_mlflow(
    new_version: Callable[..., int], mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_version("kept", 3.0, "champion")
    pinned = pin("models:/kept@champion")
    locate(pinned)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert locate(pinned).version == "1"


def test_what_a_user_config_cannot_mean_is_said(tmp_path: Path, mlflow_uri: str) -> None:
    with pytest.raises(RequestError, match="expected model, such as"):
        locate({"modle": "models:/pinned/1"})
    with pytest.raises(ModelError, match="no such model"):
        locate({"model": "models:/nothing/1"})


def test_promoting_and_rolling_back_reach_a_living_endpoint_without_one_failed_request(
    ray_2_cpus: None, new_version: Callable[..., int], mlflow_uri: str, tmp_path: Path
) -> None:
    new_version("followed", 1.0, "champion")
    args = arguments(mlflow_uri, tmp_path, model="models:/followed@champion", follow_s=0.3)
    with run(build(args)) as url, Load(url, num_clients=4, seconds_of_audio=1.0) as load:
        load.wait_until_good(10)
        assert set(load.versions) == {"1"}

        new_version("followed", 2.0, "champion")
        wait_until(lambda: load.versions["2"] > 10)

        new_version("followed", BROKEN, "champion")
        wait_until(lambda: 'caspi_model_swaps_total{outcome="failed"' in metrics(url))
        load.wait_until_good(10)
        assert load.versions["3"] == 0, "the old one stays"
        wait_until(lambda: "models:/followed/3: the weights are broken" in (models(url)[0]["problem"] or ""))
        assert models(url)[0]["version"] == "2"

        tracking.rollback("followed", uri=mlflow_uri)  # from 3 to 2
        tracking.rollback("followed", uri=mlflow_uri)  # from 2 to 1
        ones = load.versions["1"]
        wait_until(lambda: load.versions["1"] > ones + 10)
        wait_until(lambda: (models(url)[0]["version"], models(url)[0]["problem"]) == ("1", None))
    assert load.failures == []
    assert len({text.split()[1] for text in load.texts}) == 1, "one process all the time"


def models(url: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as answer:
        return [card["serving"] for card in json.load(answer)["data"]]


def test_a_changed_user_config_exchanges_the_model_in_the_living_replicas(
    ray_2_cpus: None, new_version: Callable[..., int], mlflow_uri: str, tmp_path: Path
) -> None:
    """What `serve deploy` does with a file in which only `user_config` changed, and then with changed arguments."""
    for weight in (1.0, 2.0):
        new_version("deployed", weight)
    args = arguments(mlflow_uri, tmp_path, model="models:/deployed/1")
    with deployed(BUILD, args) as url, Load(url, num_clients=4, seconds_of_audio=1.0) as load:
        load.wait_until_good(10)
        deploy(BUILD, args, user_config={"model": "models:/deployed/2"})
        wait_until(lambda: load.versions["2"] > 10)
        assert len({text.split()[1] for text in load.texts}) == 1, "one process all the time"
        assert load.failures == []

        deploy(BUILD, args | {"model": "models:/deployed/1", "batch_wait_s": 0.01})  # other processes: they drain
        ones = load.versions["1"]
        wait_until(lambda: load.versions["1"] > ones + 10)
        wait_until(lambda: ray.serve.status().applications[serving.APPLICATION].status == "RUNNING")
        load.wait_until_good(10)
    assert load.failures == []
    assert len({text.split()[1] for text in load.texts}) == 2


def test_a_canary_gets_its_share(
    ray_2_cpus: None, new_version: Callable[..., int], mlflow_uri: str, tmp_path: Path
) -> None:
    with canary(new_version, arguments(mlflow_uri, tmp_path), name="watched", weight=2.0) as url:
        with Load(url, num_clients=4, seconds_of_audio=1.0) as load:
            load.wait_until_good(40)
        assert load.failures == []
        assert min(load.versions["1"], load.versions["2"]) >= 8
        counted = metrics(url)
        assert 'version="1"' in counted and 'version="2"' in counted
        with Load(url, num_clients=1, seconds_of_audio=1.0, stop_after=6, headers={"x-request-id": "mine"}) as same:
            same.wait()
        assert len(same.versions) == 1, "the same id goes the same way"


def test_what_the_canary_fails_the_stable_model_answers(
    ray_2_cpus: None, new_version: Callable[..., int], mlflow_uri: str, tmp_path: Path
) -> None:
    with canary(new_version, arguments(mlflow_uri, tmp_path), name="deaf", weight=DEAF) as url:
        with Load(url, num_clients=2, seconds_of_audio=1.0) as load:
            load.wait_until_good(20)
        assert (load.failures, set(load.versions)) == ([], {"1"})
        assert 'caspi_canary_fallbacks_total{reason="ValueError"' in metrics(url)


def test_caspi_serve_follows_its_alias(
    ray_2_cpus: None, mlflow_uri: str, toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    shutil.copytree(toy_model, other)
    (other / "generation_config.json").write_text("{}")  # enough to be another model
    for model in (toy_model, other):
        tracking.set_alias(mlflow_uri, "toys", "champion", register_folder(mlflow_uri, model, "toys"))
    monkeypatch.setattr(serving, "FOLLOW_EVERY_S", 0.5)
    with serving.endpoint("models:/toys@champion", port=0, follow=True) as url:
        assert models(url)[0]["version"] == "2"
        tracking.rollback("toys", uri=mlflow_uri)
        wait_until(lambda: models(url)[0]["version"] == "1")


def test_only_an_alias_can_be_followed(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no alias to follow"), serving.endpoint(tmp_path, port=0, follow=True):
        pass


@contextmanager
def canary(new_version: Callable[..., int], args: dict[str, Any], *, name: str, weight: float) -> Iterator[str]:
    """Version 1 with version 2 beside it, which gets half."""
    new_version(name, 1.0)
    new_version(name, weight)
    both = {"model": f"models:/{name}/1", "canary": {"model": f"models:/{name}/2", "share": 0.5}, "num_cpus": 0.2}
    with run(build(args | both)) as url:
        yield url
