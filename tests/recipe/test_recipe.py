"""Recipes: what is accepted, what is refused, and in which words."""

from pathlib import Path

import pytest
import yaml

from caspi.errors import RecipeError
from caspi.recipe import load_recipe, parse_recipe, show

MINIMAL = "data:\n  language: he\n  sources:\n    - {kind: jsonl, path: speech.jsonl}\n"


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as refused:
        load_recipe(path, overrides=overrides)
    assert refused.value.exit_code == 2
    return str(refused.value)


def test_a_few_lines_are_a_recipe(recipe_file: Path):
    recipe = load_recipe(recipe_file)
    assert recipe.name == "mine"
    assert recipe.model.init == "toy"
    assert recipe.training.epochs == 3


def test_paths_are_relative_to_the_recipe_wherever_the_command_runs(recipe_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir("/")
    (source,) = load_recipe(recipe_file).data.sources
    assert source.path == str(recipe_file.parent / "speech.jsonl")


def test_urls_stay_as_they_are(recipe_file: Path):
    (source,) = load_recipe(recipe_file, overrides=["data.sources.0.path=s3://bucket/a.jsonl"]).data.sources
    assert source.path == "s3://bucket/a.jsonl"


def test_what_show_prints_loads_as_the_same_recipe(recipe_file: Path):
    recipe = load_recipe(recipe_file)
    assert parse_recipe(yaml.safe_load(show(recipe))) == recipe


def test_an_override_reaches_any_depth_and_lists(recipe_file: Path):
    recipe = load_recipe(
        recipe_file,
        overrides=["training.optimizer.learning_rate=2e-4", "data.sources.0.name=radio", "training.epochs=1"],
    )
    assert recipe.training.optimizer.learning_rate == 2e-4
    assert recipe.data.sources[0].name == "radio"
    assert recipe.training.epochs == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.batches.max_mikro_batch_s=3",
            "training.batches.max_mikro_batch_s: unknown; did you mean max_micro_batch_s?",
        ),
        ("trainin.epochs=3", "trainin: unknown; did you mean training?"),
        ("training.epochs=many", "training.epochs: found 'many'; input should be a valid integer"),
        ("training.epochs=0", "training.epochs: found 0; input should be greater than or equal to 1"),
        ("data.language=xx", "data.language: language 'xx'"),
        ("data.sources.0.language=hebrew", "language 'hebrew' is unknown"),
        ("data.sources.0.kind=jsonel", "data.sources.0.kind: jsonel; expected one of"),
        ("data.sources.0.pth=x", "data.sources.0.pth: unknown; did you mean path?"),
        ("data.sources=[]", "data.sources: found []"),
        ("data.filters.max_duration_s=100", "does not fit in training.batches.max_micro_batch_s"),
        (
            "training={augmentation: {speed: 0.4, max_shift_s: 2}, batches: {max_micro_batch_s: 50}}",
            "data.filters.max_duration_s=30.0 (up to 52.0 with training.augmentation) does not fit in",
        ),
        ("training.mixture.weights.radio=-1", "training.mixture.weights.radio: found -1; input should be greater than"),
        ("training.mixture.silence=0.02", "training.mixture.silence: unknown; did you mean silence_share?"),
        ("training.context.share=2", "training.context.share: found 2; input should be less than or equal to 1"),
        ("data.filters.min_duration_s=50", "data.filters: min_duration_s=50.0 is not below max_duration_s"),
        ("model.toy.encoder_heads=3", "model.toy: encoder_width=128 does not split into encoder_heads=3"),
        ("training.epochs", "--set training.epochs: expected key.path=value"),
        ("data.sources.7.path=x", "7 is not an item of a list of 1"),
        ("training.epochs.deep=1", "training.epochs: found {'deep': 1}"),
    ],
)
def test_a_mistake_is_one_line_with_the_dotted_key(recipe_file: Path, override: str, message: str):
    said = refusal(recipe_file, override)
    assert message in said
    assert "\n" not in said


def test_two_mistakes_are_two_lines(recipe_file: Path):
    said = refusal(recipe_file, "training.epochs=0", "training.sed=1")
    assert sorted(line.split(":")[0] for line in said.splitlines()) == ["training.epochs", "training.sed"]


def test_a_missing_key_is_named(tmp_path: Path):
    path = tmp_path / "empty.yaml"
    path.write_text("training: {epochs: 3}\n", encoding="utf-8")
    assert "data: missing" in refusal(path)


@pytest.mark.parametrize("content", ["- a\n- b\n", "just words", "a: [1,", ""])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "odd.yaml"
    path.write_text(content, encoding="utf-8")
    assert str(path) in refusal(path)


def test_a_missing_file_is_refused(tmp_path: Path):
    assert "no recipe to read here" in refusal(tmp_path / "nowhere.yaml")
