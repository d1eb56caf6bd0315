"""What a person sees while Caspi works: one short line an event, at most one every few seconds. In a terminal the line
of a long preparation is rewritten in place; in a log it comes again and again."""

import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caspi.corpus import Progress

_QUIET_S = 5.0  # between two lines of the same kind of progress
_QUIET_IN_PLACE_S = 0.2  # between two changes of a line that is rewritten


class Console:
    """Prints progress. The callbacks fit `on_progress` of the stages."""

    def __init__(self) -> None:
        self._last = 0.0
        self._started = time.monotonic()
        self._stage = ""  # of the preparation
        self._stage_started = 0.0
        self._is_line_open = False

    def line(self, text: str) -> None:
        self._close_line()
        print(f"  {text}", flush=True)

    def synthesis(self, done: int, total: int) -> None:
        """Parts of the synthetic corpus."""
        if self._is_time(done == total):
            self.line(f"spoken {done}/{total} files")

    def preparation(self, progress: "Progress") -> None:
        """Rows of the sources, and what comes before and after them."""
        is_new = progress.stage != self._stage
        if is_new:
            self._close_line()
            # The first stage is not announced: its first report comes when some of it is done.
            self._stage_started = progress.elapsed_s if self._stage else 0.0
            self._stage = progress.stage
        is_last = _is_done(progress)
        text = _preparation_text(progress, progress.elapsed_s - self._stage_started)
        if sys.stdout.isatty():
            if self._is_time(is_new or is_last, _QUIET_IN_PLACE_S):
                self._rewrite(text)
                if is_last:
                    self._close_line()
        elif self._is_time(is_new or is_last):
            self.line(text)

    def manifest(self, manifest: dict[str, Any]) -> None:
        """The counts of a finished corpus."""
        for split, counts in manifest["splits"].items():
            self.line(f"{split:<10} {counts['num_utterances']:>9,} utterances {counts['hours']:>9,.2f} h")
        refused = manifest["rejected_by_reason"]
        most_first = sorted(refused.items(), key=lambda pair: (-pair[1], pair[0]))
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in most_first)
        self.line(f"{'rejected':<10} {sum(refused.values()):>9,}" + (f" ({reasons})" if reasons else ""))

    def training(self, line: dict[str, Any]) -> None:
        """A line of progress.jsonl."""
        place = f"step {line['step']:>5}/{line['num_steps']}  epoch {line['epoch']:>2}"
        if line["event"] in ("validation", "average"):
            what = "of the average of the best" if line["event"] == "average" else "on validation"
            self.line(f"{place}  WER {line['eval/wer']:.1%}  CER {line['eval/cer']:.1%}  {what}")
        elif line["event"] == "out_of_memory":
            bound_s = line["train/max_micro_batch_s"]
            self.line(f"{place}  out of memory: done again in halves, {bound_s:.0f} s of audio at once from now on")
        elif line["event"] == "damaged_checkpoint":
            self.line(f"{place}  damaged, so not used: {line['text']}")
        elif line["event"] == "resumed":
            self.line(f"{place}  goes on from {line['text']}")
        elif line["event"] == "step" and self._is_time(line["step"] in (1, line["num_steps"])):
            left_s = (line["num_steps"] - line["step"]) * line["train/step_s"]
            self.line(
                f"{place}  loss {line['train/loss']:.4f}  {line['train/rtfx']:.0f} x real time  "
                f"about {_duration(left_s)} of steps left"
            )

    def evaluation(self, done: int, total: int) -> None:
        """Utterances of a split."""
        if self._is_time(done == total):
            self.line(f"transcribed {done}/{total} utterances")

    def _rewrite(self, text: str) -> None:
        """Put a line in the place of the one before."""
        width = shutil.get_terminal_size().columns
        # A line that wraps cannot be taken back. \x1b[K clears what was longer.
        print(f"\r  {text}"[:width] + "\x1b[K", end="", flush=True)
        self._is_line_open = True

    def _close_line(self) -> None:
        """Leave what was rewritten so far as it is."""
        if self._is_line_open:
            print(flush=True)
            self._is_line_open = False

    def _is_time(self, is_important: bool, quiet_s: float = _QUIET_S) -> bool:
        now = time.monotonic()
        if not is_important and now - self._last < quiet_s:
            return False
        self._last = now
        return True


def _is_done(progress: "Progress") -> bool:
    if progress.stage == "shards":
        return progress.num_shards_done == progress.num_shards
    return progress.num_rows_done == progress.num_rows


def _preparation_text(progress: "Progress", stage_s: float) -> str:
    """A line about a preparation whose present stage has lasted `stage_s`."""
    if progress.stage == "rows":
        return _rows_text(progress, stage_s)
    if progress.stage == "shards":
        left = _time_left(progress.num_shards_done, progress.num_shards, stage_s)
        return f"wrote {progress.num_shards_done:,}/{progress.num_shards:,} shards{left}"
    rows = f"{progress.num_rows_done:,}/{progress.num_rows:,} recordings"
    left = _time_left(progress.num_rows_done, progress.num_rows, stage_s)
    if progress.stage == "meaning":
        return f"let the model listen to {rows}, {progress.num_rejected:,} rejected{left}"
    assert progress.stage == "evaluation sets", progress.stage
    return f"read {rows} of evaluation sets{left}"


def _rows_text(progress: "Progress", stage_s: float) -> str:
    num_new = progress.num_rows_done - progress.num_rows_reused  # what an earlier run did says nothing of our speed
    speed = max(progress.hours - progress.hours_reused, 0.0) * 3600 / max(stage_s, 1e-9)
    reused = f" ({progress.num_rows_reused:,} of them before)" if progress.num_rows_reused else ""
    left = _time_left(num_new, progress.num_rows - progress.num_rows_reused, stage_s)
    # What people wait for comes first: a narrow terminal cuts the rest.
    return (
        f"prepared {progress.num_rows_done:,}/{progress.num_rows:,} recordings{reused}{left}; "
        f"{progress.hours:,.2f} h kept, {speed:,.0f} x real time, {progress.num_rejected:,} rejected"
    )


def _time_left(num_done: int, num_all: int, elapsed_s: float) -> str:
    """What is left at the same speed, or nothing where there is nothing to go by."""
    if not num_done or num_done >= num_all or elapsed_s <= 0:
        return ""
    return f", about {_duration((num_all - num_done) / num_done * elapsed_s)} left"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
