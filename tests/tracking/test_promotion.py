"""From a model and its evaluation to the champion, and back."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from caspi.cli import main
from caspi.corpus.format import Corpus
from caspi.errors import GateError, ModelError, RecipeError, ResultsError
from caspi.evaluation.gate import Verdict
from caspi.evaluation.hypotheses import fingerprint_model
from caspi.evaluation.results import Results
from caspi.recipe import Recipe, parse_recipe
from caspi.recipe.gate import Gate
from caspi.tracking import log_evaluation, log_model_files, promote, promotion, resolve, rollback, start_run
from caspi.tracking.client import client
from caspi.tracking.model_files import read_model_files
from caspi.tracking.registry import version_at
from tests.evaluation.made_up import evaluated
from tests.tracking.conftest import write_model

SAID = "אחת שתיים שלוש ארבע חמש שש שבע שמונה תשע עשר"


def write_run(folder: Path, *, weight: float, num_wrong: int, num_utterances: int = 40) -> Path:
    """RUN/model, whose evaluation beside it says that so many utterances of ten words have one wrong."""
    model = write_model(folder / "model", weight=weight)
    write_evaluation(folder / "evaluation", model, num_wrong=num_wrong, num_utterances=num_utterances)
    return model


def write_evaluation(folder: Path, model: Path, *, num_wrong: int, num_utterances: int = 40) -> Path:
    wrong = SAID.replace("אחת", "טעות")
    answers = {f"u{n}": (SAID, wrong if n < num_wrong else SAID) for n in range(num_utterances)}
    fingerprint = read_model_files(model).digest
    evaluated(answers, model_fingerprint=fingerprint, corpus_fingerprint="abc", split="test").write(folder)
    (folder / "report.html").write_text("<p>report</p>")
    return folder


def artifact(uri: str, name: str, version: int, tag: str, into: Path) -> Path:
    """What a tag of a version names among its run's artifacts."""
    with client(uri) as mlflow:
        found = mlflow.get_model_version(name, str(version))
        into.mkdir()
        return Path(mlflow.download_artifacts(found.run_id, found.tags[tag], str(into)))


def tags_of(uri: str, name: str, version: int) -> dict[str, Any]:
    with client(uri) as mlflow:
        return mlflow.get_model_version(name, str(version)).tags


def test_a_version_holds_where_it_came_from_and_what_speaks_for_it(
    mlflow_uri: str, recipe: Recipe, corpus: Corpus, tmp_path: Path
):
    model = write_run(tmp_path / "run", weight=1.5, num_wrong=8)
    run_id = start_run(recipe, corpus, uri=mlflow_uri)
    log_model_files(mlflow_uri, run_id, model)
    promotion = promote(model, "he-whole", uri=mlflow_uri)
    assert (promotion.version, promotion.replaced) == (1, None)

    with client(mlflow_uri) as mlflow:
        version = mlflow.get_model_version_by_alias("he-whole", "champion")
        assert version.run_id == run_id, "the training run had uploaded these files"
        assert mlflow.get_model_version_by_alias("he-whole", "candidate").version == "1"
    assert version.tags["wer"] == "0.02"
    assert version.tags["caspi.evaluated_on"] == "abc"
    assert version.tags["caspi.corpus_fingerprint"] == corpus.fingerprint
    assert version.tags["caspi.recipe"] == "small"
    assert version.tags["caspi.parent_model"] == "toy"
    assert version.tags["caspi.model_digest"] == read_model_files(model).digest
    assert version.tags["caspi.version"]
    stored = artifact(mlflow_uri, "he-whole", 1, "caspi.evaluation", tmp_path / "stored")
    assert Results.read(stored).metrics["wer"] == 0.02
    assert (stored / "report.html").read_text() == "<p>report</p>"


def test_the_gate_refuses_a_worse_model_and_lets_a_better_one_pass(mlflow_uri: str, tmp_path: Path):
    first = write_run(tmp_path / "first", weight=1, num_wrong=10)
    promote(first, "he-gate", uri=mlflow_uri)

    worse = write_run(tmp_path / "worse", weight=2, num_wrong=30)
    with pytest.raises(GateError, match=r"champion stays version 1: version 2, now candidate.*\n  wer: 7.50%.*\+5.00"):
        promote(worse, "he-gate", uri=mlflow_uri)
    assert version_at(mlflow_uri, "he-gate", "champion") == 1
    assert version_at(mlflow_uri, "he-gate", "candidate") == 2
    assert tags_of(mlflow_uri, "he-gate", 2)["caspi.gate"] == "refused"
    verdict_file = artifact(mlflow_uri, "he-gate", 2, "caspi.verdict", tmp_path / "refused")
    verdict = json.loads(verdict_file.read_text())
    assert verdict["passed"] is False
    assert (verdict["version"], verdict["against_version"]) == (2, 1)
    assert verdict["gate"]["max_wer_increase"] == Gate().max_wer_increase
    assert [each["name"] for each in verdict["checks"] if not each["passed"]] == ["wer"]

    better = write_run(tmp_path / "better", weight=3, num_wrong=2)
    promotion = promote(better, "he-gate", uri=mlflow_uri)
    assert (promotion.version, promotion.replaced) == (3, 1)
    assert promotion.verdict is not None and promotion.verdict.passed
    assert version_at(mlflow_uri, "he-gate", "champion") == 3
    assert tags_of(mlflow_uri, "he-gate", 3)["caspi.gate"] == "passed"
    with client(mlflow_uri) as mlflow:
        version = mlflow.get_model_version("he-gate", "3")
        folder = version.tags["caspi.verdict"].rpartition("/")[0]
        names = {Path(entry.path).name for entry in mlflow.list_artifacts(version.run_id, folder)}
    assert {"verdict.json", "comparison.json", "comparison.parquet"} <= names


def test_another_test_set_is_refused_until_the_champion_is_evaluated_on_it(mlflow_uri: str, tmp_path: Path):
    first = write_run(tmp_path / "first", weight=1, num_wrong=10)
    promote(first, "he-sets", uri=mlflow_uri)
    better = write_run(tmp_path / "better", weight=2, num_wrong=0, num_utterances=50)
    with pytest.raises(GateError, match=r"test set: .*\(50 utterances\).*\(40; 40 are in both\)"):
        promote(better, "he-sets", uri=mlflow_uri)
    again = write_evaluation(tmp_path / "again", first, num_wrong=10, num_utterances=50)
    with pytest.raises(ResultsError, match="not those of the model in run"):
        promote(better, "he-sets", uri=mlflow_uri, champion_evaluation=better.parent / "evaluation")
    assert promote(better, "he-sets", uri=mlflow_uri, champion_evaluation=again).version == 2
    assert version_at(mlflow_uri, "he-sets", "champion") == 2


def test_an_evaluation_of_the_champion_that_mlflow_knows_need_not_be_given(mlflow_uri: str, tmp_path: Path):
    first = write_run(tmp_path / "first", weight=11, num_wrong=10)
    promote(first, "he-logged", uri=mlflow_uri)
    log_evaluation(write_evaluation(tmp_path / "again", first, num_wrong=10, num_utterances=50), uri=mlflow_uri)
    better = write_run(tmp_path / "better", weight=12, num_wrong=0, num_utterances=50)
    assert promote(better, "he-logged", uri=mlflow_uri).verdict.passed


def test_without_evaluations_only_the_first_becomes_champion(mlflow_uri: str, tmp_path: Path):
    first = write_model(tmp_path / "first" / "model", weight=21)
    assert promote(first, "he-bare", uri=mlflow_uri).version == 1
    second = write_model(tmp_path / "second" / "model", weight=22)
    with pytest.raises(GateError, match="evaluation: the candidate has none; evaluate it"):
        promote(second, "he-bare", uri=mlflow_uri)
    evaluation = write_evaluation(tmp_path / "late", second, num_wrong=0)
    with pytest.raises(GateError, match="evaluation: the champion has none; evaluate it on the same test set"):
        promote(second, "he-bare", uri=mlflow_uri, evaluation=evaluation)
    promote(first, "he-bare", uri=mlflow_uri, evaluation=write_evaluation(tmp_path / "theirs", first, num_wrong=5))
    promote("models:/he-bare/2", "he-bare", uri=mlflow_uri)  # with what was stored when it was refused
    assert version_at(mlflow_uri, "he-bare", "champion") == 2


def test_a_first_model_is_held_to_the_bounds_of_the_recipe_it_was_trained_by(
    mlflow_uri: str, corpus: Corpus, tmp_path: Path
):
    recipe = parse_recipe(
        {"name": "strict", "data": {"sources": [{"kind": "folder", "path": "/s"}]}, "gate": {"max_wer": 0.01}}
    )
    model = write_run(tmp_path / "run", weight=4, num_wrong=8)
    log_model_files(mlflow_uri, start_run(recipe, corpus, uri=mlflow_uri), model)
    with pytest.raises(GateError, match=r"means no version: .*\n  wer: 2.00%; at most 1.00%; \+1.00 points too much"):
        promote(model, "he-first", uri=mlflow_uri)
    assert promote(model, "he-first", uri=mlflow_uri, gate=Gate(max_wer=0.05)).version == 1


def test_a_recipe_of_another_time_is_not_guessed_at(mlflow_uri: str, recipe: Recipe, corpus: Corpus, tmp_path: Path):
    model = write_run(tmp_path / "run", weight=5, num_wrong=8)
    run_id = start_run(recipe, corpus, uri=mlflow_uri)
    log_model_files(mlflow_uri, run_id, model)
    with client(mlflow_uri) as mlflow:
        mlflow.log_text(
            run_id, "data: {sources: [{kind: folder, path: /s}]}\nname: x\ngate: {max_werr: 1}\n", "recipe.yaml"
        )
    with pytest.raises(RecipeError, match=r"say with --recipe which gate holds: gate\.max_werr: unknown; did you mean"):
        promote(model, "he-old-recipe", uri=mlflow_uri)


def test_the_gate_can_be_passed_by_and_the_version_says_so(mlflow_uri: str, tmp_path: Path):
    promote(write_run(tmp_path / "first", weight=1, num_wrong=0), "he-open", uri=mlflow_uri)
    worse = write_run(tmp_path / "worse", weight=2, num_wrong=30)
    assert promote(worse, "he-open", uri=mlflow_uri, ask_gate=False).replaced == 1
    assert version_at(mlflow_uri, "he-open", "champion") == 2
    assert tags_of(mlflow_uri, "he-open", 2)["caspi.gate"] == "not asked"


def test_the_same_files_are_the_same_version_and_other_aliases_have_champions_of_their_own(
    mlflow_uri: str, tmp_path: Path
):
    first = write_run(tmp_path / "first", weight=1, num_wrong=0)
    assert promote(first, "he-again", uri=mlflow_uri).version == 1
    assert promote(first, "he-again", uri=mlflow_uri).version == 1
    worse = write_run(tmp_path / "worse", weight=2, num_wrong=30)
    assert promote(worse, "he-again", uri=mlflow_uri, alias="trial").version == 2
    assert version_at(mlflow_uri, "he-again", "trial") == 2
    assert version_at(mlflow_uri, "he-again", "champion") == 1
    assert promote("models:/he-again@trial", "he-again", uri=mlflow_uri, alias="candidate").version == 2


def test_a_model_is_known_by_its_files_wherever_they_lie(mlflow_uri: str, tmp_path: Path):
    model = write_run(tmp_path / "run", weight=7, num_wrong=0)
    promote(model, "he-known", uri=mlflow_uri)
    (model / ".hidden").touch()
    digest = read_model_files(model).digest
    assert fingerprint_model(str(model)) == digest
    assert fingerprint_model(str(resolve("models:/he-known@champion", uri=mlflow_uri))) == digest


def test_the_command_line_says_what_the_gate_said(
    mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    first, worse, better = (
        str(write_run(tmp_path / f"{number}", weight=number, num_wrong=wrong))
        for number, wrong in enumerate((9, 30, 1))
    )
    assert main(["promote", "--model", first, "--name", "he-shell"]) == 0
    assert main(["promote", "--model", worse, "--name", "he-shell"]) == 1
    assert "caspi: models:/he-shell@champion stays version 1" in capsys.readouterr().err
    assert main(["promote", "--model", better, "--name", "he-shell"]) == 0
    assert "wer: 0.25%, the champion's 2.25%: -2.00 points" in capsys.readouterr().out
    assert main(["rollback", "--name", "he-shell"]) == 0
    assert "was version 3 and is version 1 again" in capsys.readouterr().out
    assert main(["rollback", "--name", "he-shell"]) == 2


def test_an_evaluation_of_another_model_speaks_for_nobody(mlflow_uri: str, tmp_path: Path):
    good = write_run(tmp_path / "good", weight=1, num_wrong=0)
    bad = write_run(tmp_path / "bad", weight=2, num_wrong=30)
    with pytest.raises(ResultsError, match="not those of the model in run"):
        promote(bad, "he-borrowed", uri=mlflow_uri, evaluation=good.parent / "evaluation")
    with pytest.raises(ModelError, match="no such model"):
        resolve("models:/he-borrowed/1", uri=mlflow_uri)


def test_an_evaluation_that_was_interrupted_registers_nothing(mlflow_uri: str, tmp_path: Path):
    model = write_run(tmp_path / "run", weight=1, num_wrong=0)
    (model.parent / "evaluation" / "utterances.parquet").unlink()
    with pytest.raises(ResultsError, match="not a finished evaluation"):
        promote(model, "he-unfinished", uri=mlflow_uri)
    with pytest.raises(ModelError, match="no such model"):
        resolve("models:/he-unfinished/1", uri=mlflow_uri)


def test_a_rollback_gives_the_alias_back_step_by_step(mlflow_uri: str, tmp_path: Path):
    models = [write_run(tmp_path / f"{n}", weight=n, num_wrong=10 - n) for n in (1, 2, 3)]
    for model in models:
        promote(model, "he-back", uri=mlflow_uri)
    assert rollback("he-back", uri=mlflow_uri) == (3, 2)
    found = resolve("models:/he-back@champion", uri=mlflow_uri)
    assert (found / "model.safetensors").read_bytes() == (models[1] / "model.safetensors").read_bytes()
    assert "caspi.rolled_back" in tags_of(mlflow_uri, "he-back", 3)
    assert rollback("he-back", uri=mlflow_uri) == (2, 1)
    with pytest.raises(ModelError, match="is version 1 and was no other before"):
        rollback("he-back", uri=mlflow_uri)
    assert promote(models[2], "he-back", uri=mlflow_uri).replaced == 1, "what was rolled back may come again"
    assert rollback("he-back", uri=mlflow_uri) == (3, 1)


def test_a_rollback_that_is_killed_goes_the_same_way_when_it_is_repeated(
    mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for n in (1, 2, 3):
        promote(write_run(tmp_path / f"{n}", weight=n, num_wrong=10 - n), "he-killed", uri=mlflow_uri)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    # Between the two things that are written, whichever comes second.
    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", killed)
    with pytest.raises(KeyboardInterrupt):
        rollback("he-killed", uri=mlflow_uri)
    monkeypatch.undo()
    assert version_at(mlflow_uri, "he-killed", "champion") == 3
    assert rollback("he-killed", uri=mlflow_uri) == (3, 2)


def test_a_rollback_never_goes_forward(mlflow_uri: str, tmp_path: Path):
    for n in (1, 2, 3):
        promote(write_run(tmp_path / f"{n}", weight=n, num_wrong=10 - n), "he-by-hand", uri=mlflow_uri)
    with client(mlflow_uri) as mlflow:
        mlflow.set_registered_model_alias("he-by-hand", "champion", "2")  # in MLflow's own pages
    assert rollback("he-by-hand", uri=mlflow_uri) == (2, 1)
    with pytest.raises(ModelError, match="is version 1 and was no other before"):
        rollback("he-by-hand", uri=mlflow_uri)


def test_who_becomes_champion_meanwhile_is_the_one_to_beat(
    mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    promote(write_run(tmp_path / "first", weight=1, num_wrong=20), "he-race", uri=mlflow_uri)
    best = write_run(tmp_path / "best", weight=2, num_wrong=0)
    better = write_run(tmp_path / "better", weight=3, num_wrong=15)
    judge = promotion.judge

    def slowly(*evaluations: Any) -> Verdict:
        verdict = judge(*evaluations)
        monkeypatch.setattr(promotion, "judge", judge)
        assert promote(best, "he-race", uri=mlflow_uri).replaced == 1
        return verdict

    monkeypatch.setattr(promotion, "judge", slowly)
    with pytest.raises(GateError, match="champion stays version 3: version 2, now candidate, does not pass"):
        promote(better, "he-race", uri=mlflow_uri)
    assert version_at(mlflow_uri, "he-race", "champion") == 3


def test_a_stored_evaluation_of_other_files_speaks_for_nobody(mlflow_uri: str, tmp_path: Path):
    first = write_run(tmp_path / "first", weight=31, num_wrong=20)
    promote(first, "he-overwritten", uri=mlflow_uri)
    other = write_run(tmp_path / "other", weight=32, num_wrong=0)
    with client(mlflow_uri) as mlflow:
        run_id = mlflow.get_model_version("he-overwritten", "1").run_id
        place = tags_of(mlflow_uri, "he-overwritten", 1)["caspi.evaluation"]
        mlflow.log_artifacts(run_id, str(other.parent / "evaluation"), place)
    better = write_run(tmp_path / "better", weight=33, num_wrong=5)
    with pytest.raises(GateError, match="evaluation: the champion has none"):
        promote(better, "he-overwritten", uri=mlflow_uri)


@pytest.mark.parametrize(("name", "alias"), [("a'b", "champion"), ("a/b", "champion"), (" ", "champion"), ("he", "v1")])
def test_a_name_that_mlflow_cannot_look_up_is_refused_before_anything_is_done(
    mlflow_uri: str, tmp_path: Path, name: str, alias: str
):
    model = write_run(tmp_path / "run", weight=1, num_wrong=0)
    with pytest.raises(ModelError, match="cannot be"):
        promote(model, name, alias=alias, uri=mlflow_uri)
    with pytest.raises(ModelError, match="cannot be"):
        rollback(name, alias=alias, uri=mlflow_uri)


def test_a_rollback_leaves_out_versions_that_were_deleted(mlflow_uri: str, tmp_path: Path):
    for n in (1, 2, 3):
        promote(write_run(tmp_path / f"{n}", weight=n, num_wrong=10 - n), "he-deleted", uri=mlflow_uri)
    with client(mlflow_uri) as mlflow:
        mlflow.delete_model_version("he-deleted", "2")
    assert rollback("he-deleted", uri=mlflow_uri) == (3, 1)


def test_a_rollback_of_what_is_not_there_says_so(mlflow_uri: str):
    with pytest.raises(ModelError, match=r"models:/he-nobody@champion: MLflow at .* has no such model"):
        rollback("he-nobody", uri=mlflow_uri)
