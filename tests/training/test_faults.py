"""What goes wrong while training, caused for real: memory, disk, damaged checkpoints, another recipe."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from caspi.corpus import Corpus
from caspi.errors import RunError, StorageError, TrainingError
from caspi.recipe import Recipe
from caspi.training import train
from caspi.training.job import MemoryLimit
from tests.training.damage import WAYS, harm
from tests.training.whole_runs import changed, difference, lines, newest, steps

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def short(recipe: Recipe) -> Recipe:
    """Two epochs on one worker, a checkpoint every other step."""
    return changed(recipe, epochs=2, workers={"num_workers": 1}, checkpoints={"every_steps": 2})


@pytest.fixture(scope="module")
def finished(short: Recipe, corpus: Corpus, uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "run"
    train(short, corpus=corpus.path, output=output)
    return output


@pytest.mark.parametrize("collation", ["packed", pytest.param("bucketed", marks=pytest.mark.slow)])
def test_memory_that_runs_out_on_one_of_two_changes_nothing(
    short, corpus: Corpus, uri: str, finished, tmp_path: Path, collation: str
):
    output = tmp_path / "run"
    two = changed(short, workers={"num_workers": 2}, batches={"collation": collation})
    train(two, corpus=corpus.path, output=output, memory_limit=MemoryLimit(rank=1, step=3, max_padded_s=1.5))
    assert steps(output) == steps(finished)
    assert difference(output, finished) < 1e-5
    said = lines(output, "out_of_memory")
    assert said[0]["step"] == 4
    assert said[-1]["train/max_micro_batch_s"] < short.training.batches.max_micro_batch_s


def test_an_utterance_that_never_fits_ends_the_run_at_once(short, corpus: Corpus, uri: str, tmp_path: Path):
    limit = MemoryLimit(rank=0, step=1, max_padded_s=0.01)
    with pytest.raises(TrainingError, match="even alone"):
        train(short, corpus=corpus.path, output=tmp_path / "run", memory_limit=limit)
    assert len(list((tmp_path / "run" / "seen").glob("*"))) == 1, "it must not be tried again"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the start of a run and two checkpoints, not for a third beside them."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1900k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs rights that this user lacks")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(short, corpus: Corpus, uri: str, finished, full_disk: Path):
    output = full_disk / "run"
    with pytest.raises(StorageError, match=r"No space left on device.*--resume"):
        train(short, corpus=corpus.path, output=output)
    subprocess.run(["mount", "-o", "remount,size=30m", str(full_disk)], check=True)
    train(short, corpus=corpus.path, output=output, resume=True)
    assert steps(output) == steps(finished)
    assert difference(output, finished) == 0.0


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=pytest.mark.slow) if how != "truncate" else how for how in WAYS]
)
def test_a_damaged_checkpoint_costs_its_own_steps_and_no_more(
    short, corpus: Corpus, uri: str, finished, tmp_path: Path, how: str
):
    """The newest checkpoint and all that Ray Train left, damaged at once."""
    output = tmp_path / "run"
    interrupt_at_the_end(finished, output)
    end = newest(output)
    harm(end / "optimizer.safetensors", how)
    for path in [path for path in (output / "ray").rglob("*") if path.is_file()]:
        harm(path, how)
    train(short, corpus=corpus.path, output=output, resume=True)
    assert difference(output, finished) == 0.0
    assert steps(output) == steps(finished)
    (said,) = lines(output, "damaged_checkpoint")
    assert end.name in said["text"]
    assert "optimizer.safetensors" in said["text"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_any_file_may_be_damaged_in_any_way(short, corpus: Corpus, uri: str, finished, tmp_path: Path):
    """Each file of the newest checkpoint, and each that Ray Train left, one at a time."""
    own = [path.relative_to(finished) for path in newest(finished).rglob("*") if path.is_file()]
    rays = [path.relative_to(finished) for path in (finished / "ray").rglob("*") if path.is_file()]
    for number, (name, how) in enumerate((name, how) for name in (*own, *rays) for how in WAYS):
        output = tmp_path / str(number)
        interrupt_at_the_end(finished, output)
        harm(output / name, how)
        train(short, corpus=corpus.path, output=output, resume=True)
        assert difference(output, finished) == 0.0, (name, how)
        assert steps(output) == steps(finished), (name, how)
        assert len(lines(output, "damaged_checkpoint")) == (name in own), (name, how)
        shutil.rmtree(output)


def interrupt_at_the_end(finished: Path, output: Path) -> None:
    """A copy of a run, as if it had been killed just before it was over."""
    subprocess.run(["cp", "-a", str(finished), str(output)], check=True)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 43}, "training.seed"),
        ({"epochs": 5}, "training.epochs"),
        ({"batches": {"step_audio_s": 5}}, "training.batches.step_audio_s"),
        ({"optimizer": {"learning_rate": 0.001}}, "training.optimizer.learning_rate"),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(short, corpus: Corpus, finished, changes, key):
    with pytest.raises(RunError, match=key):
        train(changed(short, **changes), corpus=corpus.path, output=finished, resume=True)


def test_a_run_does_not_go_on_with_another_corpus(short, corpus: Corpus, finished):
    other = Corpus(corpus.path, corpus.manifest | {"fingerprint": "another"})
    from caspi.training.resuming import check_same_run

    with pytest.raises(RunError, match="began with the corpus"):
        check_same_run(short, other, finished)


def test_two_commands_do_not_train_one_run(short, corpus: Corpus, uri: str, finished):
    from caspi.corpus.commit import hold

    with hold(finished / "lock", whose="training"), pytest.raises(RunError, match="another training is at work"):
        train(short, corpus=corpus.path, output=finished, resume=True)
