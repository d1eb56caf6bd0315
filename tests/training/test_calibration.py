"""Bounds of micro-batches that are found by trying: near the limit, never above it, the same after a restart."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from caspi import audio
from caspi.corpus import prepare
from caspi.errors import RecipeError
from caspi.model.released import released_config
from caspi.recipe import Recipe, parse_recipe
from caspi.recipe.sections import Training
from caspi.training import train
from caspi.training.bounds import Bounds
from caspi.training.calibration import Calibration, Calibrator, Memory, MemoryModel
from caspi.training.footprint import GIB, Load
from caspi.training.lengths import LengthIndex, audio_tokens
from caspi.training.plan import plan_run
from caspi.training.sample import RESERVES, Sample
from caspi.training.step import DoesNotFit
from caspi.training.survey import Surveyor
from tests.training.conftest import tone
from tests.training.whole_runs import lines

AUTO = {"batches": {"step_audio_s": 1400, "max_micro_batch_s": "auto"}, "workers": {"memory_gib": 40}}
LIMIT_GIB = 1.5  # of a worker in a real run, about half of it before it computes anything

BASE_GIB = 30.0
RATES = np.array([3.0e6, 1.2e6, 1.8e6, 20.0])  # bytes for a position, an audio token, a logit row, longest squared


def surveyor(*, num_workers: int = 2, longest_s: float = 30.0, **training: object) -> Surveyor:
    """Lengths as those of crowd-transcribe, and one utterance that is longer than all others."""
    random = np.random.default_rng(0)
    durations_s = np.clip(random.lognormal(1.5, 0.65, 1500), 0.5, 20).astype(np.float32)
    durations_s[1234] = longest_s
    num_tokens = audio_tokens(durations_s) + 18 + np.rint(durations_s * random.uniform(2, 8, 1500)).astype(np.int64)
    settings = Training.model_validate(AUTO | training)
    index = LengthIndex.of(durations_s, [250] * 6, num_tokens=num_tokens)
    return Surveyor(plan_run(index, settings), settings, num_workers, num_prompt_tokens=18)


class Device:
    """A memory that is used as the model of it says, but for noise, and runs out where it ends."""

    def __init__(self, looked_at: Surveyor, *, ends_gib: float = 40.0, noise: float = 0.02) -> None:
        self.surveyor, self.ends, self.noise = looked_at, ends_gib * GIB, noise
        self.random = np.random.default_rng(1)
        self.used: list[float] = []

    def needs(self, load: np.ndarray) -> float:
        return float(BASE_GIB * GIB + RATES @ [*load[:3].tolist(), load[3] ** 2])

    def attempt(self, items: np.ndarray) -> tuple[Load, float]:
        load = self.surveyor.describe(self.surveyor.plans[0], [items]).loads[0]
        growth = (self.needs(load) - BASE_GIB * GIB) * (1 + self.noise * self.random.uniform(-1, 1))
        self.used.append(BASE_GIB * GIB + growth)
        return Load(*load), self.used[-1] if self.used[-1] <= self.ends else float("inf")

    def most_of_a_run(self, bounds: Bounds) -> float:
        """Of every micro-batch of every step, not only those that were looked at."""
        looked_at, (plan, *_) = self.surveyor, self.surveyor.plans
        found = (
            looked_at.micro_batches(plan, step, rank, bounds)
            for step in range(plan.num_steps)
            for rank in range(looked_at.num_workers)
        )
        return max(self.needs(load) for batches in found if batches is not None for load in batches.loads)


def calibrate(device: Device, limit_gib: float = 40.0) -> Calibration:
    return Calibrator(Sample(device.surveyor), device.attempt, limit_gib * GIB, RESERVES["cuda"]).run()


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("limit_gib", [36.0, 40.0])
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_the_bounds_use_most_of_the_memory_and_never_more(num_workers: int, limit_gib: float, noise: float):
    device = Device(surveyor(num_workers=num_workers), noise=noise)
    found = calibrate(device, limit_gib)
    assert max(device.used) <= limit_gib * GIB
    assert 0.85 * limit_gib * GIB <= device.most_of_a_run(found.bounds) <= limit_gib * GIB
    assert found.num_trials == len(device.used) < 40


def test_where_a_whole_share_fits_nothing_is_cut():
    device = Device(surveyor(num_workers=8), ends_gib=1000)
    found = calibrate(device, 1000)
    looked_at, plan = device.surveyor, device.surveyor.plans[0]
    unbounded = looked_at.micro_batches(plan, 3, 5, Bounds(float("inf")))
    cut = looked_at.micro_batches(plan, 3, 5, found.bounds)
    assert [*map(len, cut.groups)] == [*map(len, unbounded.groups)]


def test_the_longest_utterance_is_tried_even_where_the_sample_has_none_like_it():
    device = Device(surveyor(longest_s=28.5))
    calibrate(device)
    longest = [items for items in Sample(device.surveyor).micro_batches(Bounds(1.0))[0] if 1234 in items]
    assert longest[0].tolist() == [1234]
    needed = device.needs(device.surveyor.describe(device.surveyor.plans[0], [longest[0]]).loads[0])
    assert any(used == pytest.approx(needed, rel=0.01) for used in device.used)


def test_an_utterance_that_fits_nowhere_is_refused_with_what_to_do():
    with pytest.raises(DoesNotFit, match=r"some utterance alone needs \d\d\.\d+ GiB.*max_duration_s.*memory_gib"):
        calibrate(Device(surveyor(longest_s=700.0)), 36.0)


def test_memory_that_ends_before_its_limit_is_found_by_running_out():
    device = Device(surveyor(), ends_gib=36.0)
    found = calibrate(device, 40.0)
    assert device.most_of_a_run(found.bounds) <= 36.0 * GIB


def test_the_model_is_never_below_what_was_seen():
    random = np.random.default_rng(0)
    loads = random.integers(100, 5000, (12, 4))
    used = 1e9 + loads[:, :3] @ RATES[:3] * random.uniform(0.9, 1.1, 12)
    model = MemoryModel.fit(loads, used)
    assert (model(loads) >= used - 1).all()
    assert min(model.rates) >= 0


def test_it_says_what_was_found_in_a_sentence():
    model = MemoryModel(30.6 * GIB, (0.0,) * 4)
    found = Calibration(Bounds(184.3, 4120), model, 36.43 * GIB, 39.5 * GIB, num_trials=9, seconds=41.2)
    assert str(found) == (
        "each worker computes up to 184 s of audio (4,120 tokens) at once: 36.43 of 39.50 GiB (92%), "
        "of which 30.60 whatever it computes (tried with 9 batches in 41 s)"
    )


# --- what is known from before --------------------------------------------------------------------------------------


def test_what_was_found_is_used_again_without_a_trial(tmp_path: Path):
    device = Device(surveyor())
    found = calibrate(device)
    memory = Memory.of(tmp_path, ["A100"] * 2, 40 * GIB, released_config("0.6B"), device.surveyor.training)
    memory.write(found.model)
    again = Calibrator(Sample(device.surveyor), device.attempt, 40 * GIB, RESERVES["cuda"]).run(memory.read())
    assert asdict(again.bounds) == asdict(found.bounds)
    assert again.num_trials == 0
    assert str(again).endswith("(known from before)")


@pytest.mark.parametrize(
    ("change", "is_known"),
    [
        (lambda key: key | {"devices": ["H100"]}, False),
        (lambda key: key | {"limit_bytes": 80 * GIB}, False),
        (lambda key: key | {"config": released_config("1.7B")}, False),
        (lambda key: key | {"training": Training.model_validate(AUTO | {"gradient_checkpointing": True})}, False),
        (lambda key: key | {"training": Training.model_validate(AUTO | {"ema": {}})}, False),
        (lambda key: key | {"training": Training.model_validate(AUTO | {"epochs": 9, "seed": 7})}, True),
        (lambda key: key | {"devices": ["A100"] * 3}, True),
    ],
)
def test_another_device_model_or_setting_is_tried_anew(tmp_path: Path, change: Callable[[dict], dict], is_known: bool):
    key = {
        "devices": ["A100"],
        "limit_bytes": 40 * GIB,
        "config": released_config("0.6B"),
        "training": Training.model_validate(AUTO),
    }
    Memory.of(tmp_path, **key).write(MemoryModel(1.0, (1.0,) * 4))
    assert (Memory.of(tmp_path, **change(key)).read() is not None) is is_known


def test_a_file_that_is_cut_off_is_as_if_it_were_not_there(tmp_path: Path):
    memory = Memory.of(tmp_path, ["A100"], 40 * GIB, SimpleNamespace(to_dict=dict), Training.model_validate(AUTO))
    memory.write(MemoryModel(1.0, (1.0,) * 4))
    (file,) = tmp_path.glob("*.json")
    file.write_text(file.read_text()[:20])
    assert memory.read() is None


def test_without_a_gpu_the_recipe_must_say_how_much_memory_there_is():
    values = {"name": "x", "data": {"sources": []}, "training": {"batches": {"max_micro_batch_s": "auto"}}}
    with pytest.raises(RecipeError, match=r"max_micro_batch_s=auto.*say it in training\.workers\.memory_gib"):
        parse_recipe(values | {"data": {"sources": [{"kind": "folder", "path": "x"}]}})


# --- a run ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_clips(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Tones of one to six seconds, and a few of half a minute; a toy to which a second of them is some megabytes."""
    folder = tmp_path_factory.mktemp("tones")
    random = np.random.default_rng(5)
    for number in range(120):
        words = random.choice(["אחת", "שתים", "שלוש"], size=75 if number % 40 == 7 else random.integers(3, 16))
        samples = np.concatenate([tone({"אחת": 300, "שתים": 600, "שלוש": 1200}[word], 0.38) for word in words])
        (folder / f"{number:02d}.flac").write_bytes(audio.encode_flac(samples))
        (folder / f"{number:02d}.txt").write_text(" ".join(words), encoding="utf-8")
    values = {
        "name": "long-tones",
        "data": {
            "sources": [{"kind": "folder", "path": str(folder)}],
            "splits": {"validation": 0.05, "test": 0.05},
        },
        "model": {"toy": {"vocabulary": 320, "conv_channels": 32, "decoder_width": 256, "decoder_layers": 6}},
        "training": {
            "epochs": 3,
            "batches": {"step_audio_s": 400, "max_micro_batch_s": "auto"},
            "workers": {"memory_gib": LIMIT_GIB},
            "optimizer": {"learning_rate": 5e-4},
            "validation": {"aside": "never"},
            "log_every_steps": 1,
        },
    }
    return parse_recipe(values)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_uses_most_of_its_memory_and_never_more(long_clips: Recipe, uri: str, ray_2_cpus: None, tmp_path: Path):
    """The peak is the kernel's, of everything that a worker does: training, validation, a checkpoint being written."""
    corpus = prepare(long_clips, tmp_path / "corpus")
    train(long_clips, corpus=corpus.path, output=tmp_path / "run")
    (found,) = lines(tmp_path / "run", "memory")
    peak = max(line["train/memory_gib"] for line in lines(tmp_path / "run"))
    print(found["text"], f"; used {peak:.2f}")
    assert 0.85 * LIMIT_GIB <= peak <= LIMIT_GIB
    assert not lines(tmp_path / "run", "out_of_memory")
    train(long_clips, corpus=corpus.path, output=tmp_path / "again")
    (known,) = lines(tmp_path / "again", "memory")
    assert known["text"].split(" (")[0] == found["text"].split(" (")[0]
    assert known["text"].endswith("(known from before)")
