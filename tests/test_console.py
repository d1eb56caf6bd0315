"""What a person sees while a corpus is prepared and a model is trained."""

import io
from collections.abc import Sequence

import pytest

from caspi import console as module
from caspi.console import Console
from caspi.corpus import Progress


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every report is shown, however soon after the last."""
    monkeypatch.setattr(module, "_QUIET_S", 0.0)
    monkeypatch.setattr(Console._is_time, "__defaults__", (0.0,))
    monkeypatch.setattr(module, "_QUIET_IN_PLACE_S", 0.0)


def said(capsys: pytest.CaptureFixture[str], *reports: Progress) -> list[str]:
    console = Console()
    for progress in reports:
        console.preparation(progress)
    return capsys.readouterr().out.splitlines()


def test_rows_come_with_speed_and_the_time_that_is_left(capsys: pytest.CaptureFixture[str]):
    progress = Progress("rows", num_rows=5000, num_rows_done=1000, num_rejected=7, hours=2.0, elapsed_s=20.0)
    assert said(capsys, progress) == [
        "  prepared 1,000/5,000 recordings, about 1 min 20 s left; 2.00 h kept, 360 x real time, 7 rejected"
    ]


def test_what_an_earlier_run_did_makes_this_one_no_faster(capsys: pytest.CaptureFixture[str]):
    progress = Progress(
        "rows", num_rows=5000, num_rows_done=4000, num_rows_reused=3000, hours=8.0, hours_reused=6.0, elapsed_s=20.0
    )
    assert said(capsys, progress) == [
        "  prepared 4,000/5,000 recordings (3,000 of them before), about 20 s left; "
        "8.00 h kept, 360 x real time, 0 rejected"
    ]


def test_nothing_is_promised_before_there_is_anything_to_go_by(capsys: pytest.CaptureFixture[str]):
    reused = Progress(
        "rows", num_rows=9, num_rows_done=4, num_rows_reused=4, hours=1.0, hours_reused=1.0, elapsed_s=1.0
    )
    assert "left" not in said(capsys, reused)[0]


def test_each_stage_has_its_own_clock(capsys: pytest.CaptureFixture[str]):
    lines = said(
        capsys,
        Progress("evaluation sets", num_rows=100, num_rows_done=50, elapsed_s=10.0),
        Progress("rows", num_rows=1000, elapsed_s=20.0),
        Progress("rows", num_rows=1000, num_rows_done=500, elapsed_s=30.0),
        Progress("meaning", num_rows=1000, elapsed_s=40.0),
        Progress("meaning", num_rows=1000, num_rows_done=100, num_rejected=3, elapsed_s=4040.0),
        Progress("shards", num_rows=1000, num_shards=4, elapsed_s=5000.0),
        Progress("shards", num_rows=1000, num_shards=4, num_shards_done=1, elapsed_s=5030.0),
    )
    assert lines[0] == "  read 50/100 recordings of evaluation sets, about 10 s left"
    assert lines[2].startswith("  prepared 500/1,000 recordings, about 10 s left; ")
    assert lines[4] == "  let the model listen to 100/1,000 recordings, 3 rejected, about 10 h 00 min left"
    assert lines[6] == "  wrote 1/4 shards, about 1 min 30 s left"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(written: str) -> Sequence[str]:
    """The lines that a terminal shows after these bytes."""
    return [line.rsplit("\r", 1)[-1].replace("\x1b[K", "").strip() for line in written.rstrip("\n").split("\n")]


def test_in_a_terminal_one_line_is_rewritten_and_others_follow_below(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    console = Console()
    for done in (1, 2, 3):
        console.preparation(Progress("rows", num_rows=3, num_rows_done=done, elapsed_s=1.0))
    console.preparation(Progress("shards", num_rows=3, num_shards=2, num_shards_done=1, elapsed_s=2.0))
    console.line("trouble")
    assert [line[:16] for line in shown(terminal.getvalue())] == ["prepared 3/3 rec", "wrote 1/2 shards", "trouble"]


def test_a_line_is_never_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    Console().preparation(Progress("rows", num_rows=3, num_rows_done=3, elapsed_s=1.0))
    (line,) = terminal.getvalue().replace("\x1b[K", "").lstrip("\r").splitlines()
    assert len(line) < 40


def test_a_log_gets_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(Console._is_time, "__defaults__", (3600.0,))
    reports = [Progress("rows", num_rows=9, num_rows_done=done, elapsed_s=1.0) for done in range(1, 10)]
    lines = said(capsys, *reports)
    assert [line[:15] for line in lines] == ["  prepared 1/9 ", "  prepared 9/9 "]


def test_a_run_says_what_went_wrong_and_how_it_goes_on(capsys: pytest.CaptureFixture[str]):
    console, place = Console(), {"step": 40, "num_steps": 100, "epoch": 2, "num_epochs": 5}
    console.training({"event": "out_of_memory", **place, "train/max_micro_batch_s": 30.0})
    console.training({"event": "damaged_checkpoint", **place, "text": "checkpoint-000060: changed: state.json"})
    console.training({"event": "resumed", **place, "text": "checkpoint-000040 on 2 workers"})
    console.training({"event": "average", **place, "eval/wer": 0.05, "eval/cer": 0.01})
    memory, damaged, resumed, average = capsys.readouterr().out.splitlines()
    assert "out of memory: done again in halves, 30 s of audio at once" in memory
    assert "checkpoint-000060: changed: state.json" in damaged
    assert "epoch 2/5  step  40/100" in resumed
    assert "goes on from checkpoint-000040 on 2 workers" in resumed
    assert "WER 5.0%" in average
    assert "average" in average


STEP = {
    "event": "step", "epoch": 2, "num_epochs": 3, "step": 120, "num_steps": 2343, "train/loss": 1.23456,
    "best_wer": 0.231, "left_s": 4350.0, "left_cost": 12.1, "currency": "USD", "train/rtfx": 1234.4,
    "train/memory_gib": 31.24, "data/wait_share": 0.012, "train/mfu": 0.207,
}  # fmt: skip


def trained(capsys: pytest.CaptureFixture[str], line: dict[str, object]) -> str:
    Console().training(line)
    return capsys.readouterr().out


def test_a_step_says_how_good_how_long_how_much_and_how_fast(capsys: pytest.CaptureFixture[str]):
    assert trained(capsys, STEP) == (
        "  epoch 2/3  step  120/2343  loss 1.2346  WER 23.1%  1 h 12 min, 12.10 USD left  1,234 x real time  31.2 GiB  "
        "wait 1%  MFU 21%\n"
    )


def test_a_step_says_nothing_of_what_is_not_known(capsys: pytest.CaptureFixture[str]):
    """No validation yet, no price, a GPU that Caspi does not know."""
    unknown = ("best_wer", "left_cost", "currency", "train/mfu")
    assert trained(capsys, {key: value for key, value in STEP.items() if key not in unknown}) == (
        "  epoch 2/3  step  120/2343  loss 1.2346  1 h 12 min left  1,234 x real time  31.2 GiB  wait 1%\n"
    )


def test_traces_are_shown_with_what_opens_them(capsys: pytest.CaptureFixture[str]):
    said = trained(capsys, STEP | {"event": "profile", "text": "runs/mine/run/profile"})
    assert "traces in runs/mine/run/profile: open them at ui.perfetto.dev" in said
