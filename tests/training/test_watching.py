"""What a run says of itself while it goes on: where its time goes, how well devices are used, how much is left."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from caspi.corpus import Corpus
from caspi.errors import RequestError
from caspi.recipe import Recipe
from caspi.recipe.sections import Cost, Training, Validation
from caspi.training import devices, train
from caspi.training.checkpoint import State
from caspi.training.outlook import Outlook, num_validations
from caspi.training.profiling import PARTS, StepClock, waiting
from tests.training.whole_runs import changed, lines

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def watched(
    recipe: Recipe, corpus: Corpus, uri: str, ray_2_cpus: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A run on two workers that is traced and has a price: its id and its folder."""
    output = tmp_path_factory.mktemp("watched") / "run"
    priced = changed(recipe, cost={"price_per_hour": 2.0, "currency": "EUR"})
    return train(priced, corpus=corpus.path, output=output, profile_steps=2).run_id, output


def test_the_parts_of_a_step_add_up_to_it(watched):
    for line in lines(watched[1]):
        parts = [line[f"step/{part}_s"] for part in PARTS]
        assert min(parts) >= 0
        assert line["step/backward_s"] > 0
        # The rest is what lies between the parts: moving batches, counting, learning the totals.
        assert sum(parts) <= line["train/step_s"] * 1.001


def test_curves_of_utilization_are_in_mlflow(watched, uri: str):
    from mlflow import MlflowClient

    run_id, output = watched
    client, num_steps = MlflowClient(uri), len(lines(output))
    names = ("train/mfu", "data/packing_efficiency", "step/wait_s", "step/forward_s", "step/reduce_s")
    curves = {name: client.get_metric_history(run_id, name) for name in names}
    assert {name: len(curve) for name, curve in curves.items()} == dict.fromkeys(names, num_steps)
    assert all(0 < point.value <= 1 for point in curves["data/packing_efficiency"])
    assert all(0 < point.value < 1 for point in curves["train/mfu"])


def test_each_rank_writes_a_trace_with_our_spans(watched):
    folder = watched[1] / "profile"
    assert sorted(path.name for path in folder.iterdir()) == ["rank-0.json.gz", "rank-1.json.gz"]
    for path in folder.iterdir():
        with gzip.open(path, "rt") as file:
            events = json.load(file)["traceEvents"]
        spans = Counter(event["name"] for event in events if event.get("cat") == "user_annotation")
        assert {f"caspi/{part}" for part in PARTS} <= spans.keys()
        assert spans["caspi/wait"] == 2
        assert any(event["name"] == "aten::mm" for event in events)
    (line,) = lines(watched[1], "profile")
    assert (line["step"], line["text"]) == (4, str(folder))  # after two steps of warm-up and two that were traced


def test_a_run_that_is_too_short_to_be_traced_is_refused(recipe: Recipe, corpus: Corpus, uri: str, tmp_path: Path):
    with pytest.raises(RequestError, match=r"--profile 1000: the run has \d+ steps"):
        train(recipe, corpus=corpus.path, output=tmp_path / "run", profile_steps=1000)
    assert not (tmp_path / "run" / "run.json").exists()


def test_time_and_money_that_are_left_come_to_nothing_at_the_end(watched):
    found = lines(watched[1])
    assert all(line["left_s"] > 0 for line in found[:-1])
    assert all(line["left_cost"] == pytest.approx(2 * 2.0 * line["left_s"] / 3600) for line in found)
    assert found[0]["currency"] == "EUR"
    # The last step's epoch is over, and its validation is still to come.
    assert found[-1]["left_s"] <= found[0]["left_s"]


def test_a_run_without_a_price_says_nothing_of_money():
    outlook = Outlook(Training(), num_steps=10, judges_aside=False)
    outlook.stepped(1, 1.0)
    assert outlook.left(State(step=1), num_workers=2) == {"left_s": 9.0}


def test_what_is_left_counts_steps_without_the_first_and_validations():
    settings = Training(epochs=2, cost=Cost(price_per_hour=3600.0))
    outlook = Outlook(settings, num_steps=10, judges_aside=False)
    outlook.judged(100.0)
    outlook.stepped(1, 50.0)
    outlook.stepped(2, 6.0)
    outlook.judged(7.0)
    left = outlook.left(State(epoch=0, step_in_epoch=3, step=3), num_workers=2)
    assert left["left_s"] == 7 * 3.0 + 2 * 7.0
    assert left["left_cost"] == 2 * left["left_s"]


def test_with_a_line_for_every_step_all_but_the_first_count():
    outlook = Outlook(Training(), num_steps=10, judges_aside=True)
    for seconds in (30.0, 1.0, 1.0, 1.0, 5.0):
        outlook.stepped(1, seconds)
    assert outlook.left(State(step=5), num_workers=1) == {"left_s": 5 * 2.0}


@pytest.mark.parametrize(
    ("every", "step", "expected"), [(4, 0, 3), (4, 3, 3), (4, 4, 2), (4, 9, 1), (5, 5, 1), (None, 5, 1)]
)
def test_validations_that_are_left(every: int | None, step: int, expected: int):
    """Ten steps in two epochs: every four steps, and after the last one, which is judged in any case."""
    settings = Training(epochs=2, validation=Validation(every_steps=every))
    outlook = Outlook(settings, num_steps=10, judges_aside=False)
    outlook.stepped(2, 0.0)
    outlook.judged(1.0)
    state = State(epoch=step // 5, step_in_epoch=step % 5, step=step)
    assert outlook.left(state, num_workers=1) == {"left_s": expected}


def test_validations_of_a_whole_run():
    assert num_validations(Training(epochs=3), 30) == 4
    assert num_validations(Training(validation=Validation(every_steps=20)), 30) == 3


def test_only_the_last_validation_is_waited_for_when_they_are_done_aside():
    outlook = Outlook(Training(epochs=5), num_steps=10, judges_aside=True)
    outlook.stepped(2, 0.0)
    outlook.judged(3.0)
    assert outlook.left(State(), num_workers=1) == {"left_s": 3.0}


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-40GB", 312), ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756), ("NVIDIA L4", 121), ("NVIDIA L40S", 362), ("NVIDIA A10G", 70),
    ],
)  # fmt: skip
def test_gpus_are_known_by_their_names(name: str, tflops: float):
    assert devices.peak_of_name(name) == tflops * 1e12


@pytest.mark.parametrize("name", ["NVIDIA L40", "Tesla T4", "NVIDIA GeForce RTX 5090"])
def test_a_gpu_that_is_not_known_has_no_peak_rather_than_a_wrong_one(name: str):
    assert devices.peak_of_name(name) is None


def test_a_part_that_fails_is_counted_too():
    clock = StepClock(torch.device("cpu"))
    with pytest.raises(ValueError), clock.part("forward"):
        raise ValueError
    with clock.part("forward"):
        pass
    assert clock.seconds().keys() == {"forward"}


def test_waiting_passes_items_and_errors_on():
    def feed():
        yield 1
        raise KeyError

    found = waiting(feed())
    assert next(found)[0] == 1
    with pytest.raises(KeyError):
        next(found)
