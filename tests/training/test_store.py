"""Checkpoints: whole or not there, damage found, the newest good one used, nothing lost when the disk is full."""

import dataclasses
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from caspi.errors import StorageError, TrainingError
from caspi.model import Loaded, build_toy
from caspi.recipe.sections import Optimizer, Toy
from caspi.training import checkpoint
from caspi.training.checkpoint import Grade, Snapshot, State, restore
from caspi.training.step import build_optimizer
from caspi.training.store import Background, Store
from tests.training.damage import WAYS, harm

FILES = (
    "model/config.json", "model/model.safetensors", "model/tokenizer.json", "optimizer.safetensors", "state.json",
    "sha256.json",
)  # fmt: skip


def small(seed: int, width: int = 32) -> tuple[Loaded, torch.optim.Optimizer]:
    sizes = Toy(
        vocabulary=320, conv_channels=4, encoder_width=32, encoder_layers=1, encoder_heads=2, decoder_width=width,
        decoder_layers=1, decoder_heads=2,
    )  # fmt: skip
    loaded = Loaded.wrap(*build_toy(sizes, texts=["שלום"], language="Hebrew", seed=seed))
    optimizer = build_optimizer(loaded.model, Optimizer())
    for parameter in loaded.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return loaded, optimizer


@pytest.fixture(scope="module")
def run() -> tuple[Loaded, torch.optim.Optimizer]:
    return small(1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "checkpoints")
    store.claim()
    return store


def write(store: Store, run: tuple[Loaded, torch.optim.Optimizer], *steps: int) -> None:
    for step in steps:
        store.write(Snapshot.take(*run, State(step=step)), run[0])


def same(one: Loaded, other: Loaded) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def test_everything_comes_back(store: Store, run):
    state = State(epoch=2, step_in_epoch=5, step=17, max_micro_batch_s=30.0).graded(Grade(10, 0.5, 0.2))
    path = store.write(Snapshot.take(*run, state), run[0])
    loaded, optimizer = small(2)
    assert not same(loaded, run[0])
    assert restore(path, loaded, optimizer) == state
    assert same(loaded, run[0])
    theirs = run[1].state_dict()["state"]
    for index, moments in optimizer.state_dict()["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, theirs[index][name])


def test_training_goes_on_while_a_snapshot_waits_to_be_written(store: Store):
    loaded, optimizer = small(1)
    snapshot = Snapshot.take(loaded, optimizer, State(step=1))
    before = [parameter.clone() for parameter in loaded.model.parameters()]
    optimizer.step()
    path = store.write(snapshot, loaded)
    restored, other = small(2)
    restore(path, restored, other)
    assert all(torch.equal(a, b) for a, b in zip(before, restored.model.parameters(), strict=True))


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_found_and_the_checkpoint_before_is_used(store: Store, run, name: str, how: str):
    write(store, run, 10, 20)
    harm(store.path(20) / name, how)
    path, problems = store.newest_good()
    assert path == store.path(10)
    assert len(problems) == 1
    assert problems[0].startswith("checkpoint-000020: ")
    if name != "sha256.json":  # a bit of which may stand anywhere
        assert name in problems[0]
    assert store.steps() == [10]


def test_when_all_are_damaged_there_is_none(store: Store, run):
    write(store, run, 10, 20)
    for step in (10, 20):
        harm(store.path(step) / "state.json", "truncate")
    path, problems = store.newest_good()
    assert path is None
    assert len(problems) == 2


def test_what_was_damaged_is_put_aside_until_there_is_a_new_one(store: Store, run):
    write(store, run, 10, 20)
    harm(store.path(20) / "state.json", "delete")
    store.newest_good()
    assert (store.folder / ".damaged-000020").is_dir()
    write(store, run, 20)
    assert not (store.folder / ".damaged-000020").exists()
    assert store.newest_good() == (store.path(20), [])


def test_half_written_ones_are_no_checkpoints_and_are_collected(store: Store, run):
    write(store, run, 10)
    partial = store.folder / ".partial-000020-abc"
    shutil.copytree(store.path(10), partial)
    assert store.steps() == [10]
    Store(store.folder).claim()
    assert not partial.exists()


def test_pruning_keeps_what_it_is_told_to(store: Store, run):
    write(store, run, 10, 20, 30)
    assert store.prune({10, 30}) == [20]
    assert store.steps() == [10, 30]


def test_workers_that_were_given_up_write_no_more(store: Store, run):
    write(store, run, 10)
    Store(store.folder).claim()
    with pytest.raises(Exception, match="taken this run over"):
        write(store, run, 20)
    with pytest.raises(Exception, match="taken this run over"):
        store.prune(set())
    assert store.steps() == [10]
    assert not list(store.folder.glob(".partial-*"))


def test_a_checkpoint_of_another_model_is_refused(store: Store, run):
    write(store, run, 10)
    loaded, optimizer = small(1, width=64)
    with pytest.raises(TrainingError, match="another model"):
        restore(store.path(10), loaded, optimizer)


def test_the_hashes_cover_every_file(store: Store, run):
    write(store, run, 10)
    files = {str(path.relative_to(store.path(10))) for path in store.path(10).rglob("*") if path.is_file()}
    assert checkpoint.hashes(store.path(10)).keys() == files - {"sha256.json"}


@pytest.fixture
def small_disk(store: Store, run, tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one checkpoint and a half."""
    write(store, run, 1)
    size = sum(path.stat().st_size for path in store.path(1).rglob("*"))
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size * 3 // 2}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs rights that this user lacks")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_a_clear_error_and_harms_nothing(small_disk: Path, run):
    store, background = Store(small_disk / "checkpoints"), Background()
    store.claim()
    write(store, run, 10)
    background.do(store.write, Snapshot.take(*run, State(step=20)), run[0])
    with pytest.raises(StorageError, match=r"No space left on device.*--resume"):
        background.wait()
    assert store.newest_good() == (store.path(10), [])
    assert not list(store.folder.glob(".partial-*"))
    background.close()


def test_a_storage_that_is_gone_is_a_clear_error(store: Store, run):
    write(store, run, 10)
    background = Background()
    away = store.folder.rename(store.folder.with_name("away"))
    background.do(store.write, Snapshot.take(*run, State(step=20)), run[0])
    with pytest.raises(StorageError, match=os.strerror(errno.ENOENT)):
        background.wait()
    background.close()
    away.rename(store.folder)
    assert store.newest_good() == (store.path(10), [])


def test_the_best_is_by_wer_then_cer_then_the_later():
    grades = [Grade(1, 0.3, 0.0), Grade(2, 0.2, 0.2), Grade(3, 0.2, 0.1), Grade(4, 0.2, 0.1), Grade(5, 0.9, 0.0)]
    state = State()
    for grade in grades:
        state = state.graded(grade)
    assert [grade.step for grade in state.best] == [4, 3, 2, 1, 5]
    assert state.num_without_gain == 2  # since the third, the first to be that good


def test_a_step_that_is_done_again_is_graded_anew():
    state = State().graded(Grade(1, 0.5, 0.5)).graded(Grade(2, 0.4, 0.4)).graded(Grade(1, 0.3, 0.3))
    assert [dataclasses.astuple(grade) for grade in state.grades] == [(1, 0.3, 0.3), (2, 0.4, 0.4)]


def test_the_state_survives_json():
    state = State(epoch=1, step=7).graded(Grade(3, 0.25, 0.125))
    assert State.from_json(state.to_json()) == state
