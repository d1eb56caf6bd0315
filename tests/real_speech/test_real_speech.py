"""The line on recordings that nobody here synthesized. Minutes long; the figures go to docs/benchmarks.md.

pytest -m slow tests/real_speech --material=FOLDER -s
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from caspi import evaluation, ray_session
from caspi.corpus import prepare
from caspi.recipe import load_recipe
from caspi.training import train

HERE = Path(__file__).parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def run(name: str, source: str, speech: Path, output: Path) -> dict:
    """Prepare, fine-tune the demo's model, and evaluate; the metrics of the test split."""
    recipe = load_recipe(HERE / f"{name}.yaml", overrides=[f"data.sources.0.path={speech / source / 'manifest.jsonl'}"])
    if not Path(recipe.model.init).is_dir():
        pytest.skip("these start from the demo's model; run `make demo` first")
    with ray_session.connect():
        corpus = prepare(recipe, output / "corpus")
        result = train(recipe, corpus=corpus.path, output=output / "run", on_progress=print)
        return evaluation.evaluate(result.model, corpus, output=output / "evaluation", limits=recipe.inference)


@pytest.fixture
def speech(material: Callable[[str], Path]) -> Path:
    return material("speech")


def test_hebrew_yes_and_no_on_held_out_recordings(speech: Path, tmp_path: Path):
    metrics = run("yesno", "yesno", speech, tmp_path)
    print(f"yes/no: WER {metrics['wer']:.2%} {metrics['wer_interval']} over {metrics['reference_words']} words")
    assert metrics["wer"] <= 0.05


def test_digits_on_held_out_recordings_and_an_unheard_speaker(speech: Path, tmp_path: Path):
    metrics = run("digits", "fsdd", speech, tmp_path)
    speakers = metrics["slices"]["speaker"]
    unheard = speakers.pop("theo")
    known_words = sum(numbers["reference_words"] for numbers in speakers.values())
    known = sum(numbers["wer"] * numbers["reference_words"] for numbers in speakers.values()) / known_words
    print(f"digits: WER {known:.2%} over {known_words} words of known speakers, {unheard['wer']:.2%} of an unheard one")
    assert known <= 0.03
