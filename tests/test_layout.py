"""What the layout of the repository must not break: the standard library, the upload of a job, the entry points."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

from caspi import submit
from caspi.recipe import load_recipe, parse_recipe

ROOT = Path(__file__).parents[1]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("[!_]*.py"))
RECIPES = sorted((ROOT / "jobs" / "recipes").glob("*.yaml"))


def packaged(folder: Path, target: Path, excludes: list[str]) -> set[str]:
    """The files that Ray would upload as a job's working directory."""
    create_package(str(folder), target, include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(target) as package:
        return {name for name in package.namelist() if not name.endswith("/")}


def test_the_standard_platform_module_is_not_shadowed():
    # In a fresh process: pytest itself has imported `platform` long before it adds the root to the path.
    command = "import sys; sys.path.insert(0, '.'); import platform; platform.system(); import ray"
    subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=True, timeout=60)
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_submit_uploads_the_code_and_the_recipe_and_nothing_else(tmp_path: Path):
    recipe = "tests/jobs/recipes/tiny.yaml"
    files = packaged(ROOT, tmp_path / "package.zip", submit.runtime_env(ROOT, recipe)["excludes"])
    code = {path for folder in ("platform", "jobs", "serve") for path in (ROOT / folder).rglob("*") if path.is_file()}
    expected = {path.relative_to(ROOT).as_posix() for path in code if "__pycache__" not in path.parts}
    assert files == expected | {recipe}


@pytest.mark.parametrize("name", ["data", "runs", "build", "dist"])
def test_no_line_of_gitignore_drops_a_folder_inside_the_package(name: str, tmp_path: Path):
    (tmp_path / "root" / "platform" / "caspi" / name).mkdir(parents=True)
    (tmp_path / "root" / "platform" / "caspi" / name / "module.py").touch()
    (tmp_path / "root" / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
    assert f"platform/caspi/{name}/module.py" in packaged(tmp_path / "root", tmp_path / "package.zip", [])


@pytest.mark.parametrize("job", JOBS)
def test_every_job_explains_itself(job: str):
    command = [sys.executable, "-m", f"jobs.{job}", "--help"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    assert f"python -m jobs.{job}" in answer.stdout


def test_a_mistyped_key_ends_a_job_with_one_message():
    recipe = "tests/jobs/recipes/tiny.yaml"
    command = [sys.executable, "-m", "jobs.prepare_corpus", recipe, "--output", "nowhere", "--set", "training.epoch=1"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == "caspi: training.epoch: unknown; did you mean epochs?\n"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_shows_as_a_recipe(path: Path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe
