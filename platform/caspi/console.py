"""What a person sees in the terminal while Caspi works: one short line an event, at most one every few seconds."""

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caspi.corpus import Progress

_QUIET_S = 5.0  # between two lines of the same kind of progress


class Console:
    """Prints progress. The callbacks fit `on_progress` of the stages."""

    def __init__(self) -> None:
        self._last = 0.0
        self._started = time.monotonic()

    def line(self, text: str) -> None:
        print(f"  {text}", flush=True)

    def synthesis(self, done: int, total: int) -> None:
        """Parts of the synthetic corpus."""
        if self._is_time(done == total):
            self.line(f"spoken {done}/{total} files")

    def preparation(self, progress: "Progress") -> None:
        """Rows of the sources."""
        if self._is_time(progress.num_rows_done == progress.num_rows):
            speed = progress.hours * 3600 / max(progress.elapsed_s, 1e-9)
            self.line(
                f"prepared {progress.num_rows_done}/{progress.num_rows} recordings, {progress.hours:.2f} h kept, "
                f"{progress.num_rejected} rejected, {speed:.0f} x real time"
            )

    def manifest(self, manifest: dict[str, Any]) -> None:
        """The counts of a finished corpus."""
        for split, counts in manifest["splits"].items():
            self.line(f"{split:<10} {counts['num_utterances']:>8} utterances {counts['hours']:>9.2f} h")
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(manifest["rejected_by_reason"].items()))
        self.line(
            f"{'rejected':<10} {sum(manifest['rejected_by_reason'].values()):>8} " + (f"({reasons})" if reasons else "")
        )

    def training(self, line: dict[str, Any]) -> None:
        """A line of progress.jsonl."""
        place = f"step {line['step']:>5}/{line['num_steps']}  epoch {line['epoch']:>2}"
        if line["event"] == "validation":
            self.line(f"{place}  WER {line['eval/wer']:.1%}  CER {line['eval/cer']:.1%}  on validation")
        elif line["event"] == "step" and self._is_time(line["step"] in (1, line["num_steps"])):
            left_s = (line["num_steps"] - line["step"]) * line["train/step_s"]
            self.line(
                f"{place}  loss {line['train/loss']:.4f}  {line['train/rtfx']:.0f} x real time  "
                f"about {_duration(left_s)} of steps left"
            )

    def evaluation(self, done: int, total: int) -> None:
        """Utterances of a split."""
        if done == 1:
            self._last = time.monotonic()
        if self._is_time(done == total):
            self.line(f"transcribed {done}/{total} utterances")

    def _is_time(self, is_important: bool) -> bool:
        now = time.monotonic()
        if not is_important and now - self._last < _QUIET_S:
            return False
        self._last = now
        return True


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
