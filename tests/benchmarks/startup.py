"""What it costs a command to begin and to end, with Python's usual search for cycles and with ours, by turns.

python -m tests.benchmarks.startup [--rounds 5]
"""

import argparse
import statistics
import subprocess
import sys
import time

# What `caspi train` imports, and nothing done with it.
_COMMAND = """
import time
began = time.perf_counter()
{before}
import caspi.training.launch
import caspi.training.loop
print(time.perf_counter() - began, time.time(), flush=True)
"""
WAYS = {"usual": "", "ours": "from caspi import garbage; garbage.look_seldom()"}


def measure(before: str) -> tuple[float, float]:
    """Seconds of importing, and from there to the end of the process."""
    command = [sys.executable, "-c", _COMMAND.format(before=before)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ended = time.time()
    importing_s, imported = map(float, done.stdout.split())
    return importing_s, ended - imported


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    measure("")  # so that the files are in memory for all
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way, before in WAYS.items():
            taken[way].append(measure(before))
    for way, rounds in taken.items():
        importing_s, ending_s = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
        print(f"{way:6} importing {importing_s:5.2f} s, ending {ending_s:5.2f} s")


if __name__ == "__main__":
    main()
