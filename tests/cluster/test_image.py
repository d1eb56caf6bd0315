"""The image: what it copies is there, and its Python is the one that the pins are for."""

import re
import tomllib
from pathlib import Path

import ray

import caspi

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "cluster" / "Dockerfile").read_text()


def test_everything_that_is_copied_exists_and_is_let_through():
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M) for name in line.split()]
    let_through = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text()
    assert {"pyproject.toml", "constraints.txt", "platform", "jobs", "serve"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}\n" in let_through, name


def test_it_has_the_python_of_the_pins_and_is_tagged_with_their_ray():
    assert "FROM python:3.11-" in DOCKERFILE
    assert f"caspi:{caspi.__version__}-ray{ray.__version__}" in DOCKERFILE


def test_it_does_not_run_as_root_and_says_where_home_is():
    users = re.findall(r"^USER (\S+)", DOCKERFILE, re.M)
    assert users[-1:] == ["ray"]
    assert "ENV HOME=/home/ray" in DOCKERFILE


def test_every_pin_is_exact_and_names_no_place():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin)] == []


def test_every_dependency_is_pinned():
    def normal(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    pinned = {normal(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {normal(re.match(r"[A-Za-z0-9._-]+", each)[0]) for each in wanted} - pinned == set()
