import subprocess
import sys
import time
from pathlib import Path

import pytest


def run(body: str) -> subprocess.CompletedProcess[str]:
    head = (
        f"import sys; sys.path.insert(0, {str(Path.cwd() / 'platform')!r})\nfrom caspi.audio.watchdog import deadline\n"
    )
    return subprocess.run([sys.executable, "-c", head + body], capture_output=True, text=True, timeout=60, check=False)


def test_who_hangs_inside_c_is_ended_without_a_word():
    start = time.monotonic()
    done = run("import ctypes\nwith deadline(0.5):\n    ctypes.PyDLL(None).sleep(50)")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    assert time.monotonic() - start < 20


def test_who_is_in_time_goes_on():
    done = run("import time\nwith deadline(0.3):\n    pass\ntime.sleep(0.6)\nprint('alive')")
    assert (done.returncode, done.stdout) == (0, "alive\n")


def test_who_fails_goes_on_too():
    failing = "from contextlib import suppress\nwith suppress(ValueError), deadline(0.3):\n    int('x')\n"
    assert run(f"{failing}import time\ntime.sleep(0.6)").returncode == 0


@pytest.mark.parametrize(("call", "code"), [("start_again()", 0), ("pass", 1)])
def test_a_long_body_starts_its_clock_again(call, code):
    body = "import time\nwith deadline(2.5) as start_again:\n    for _ in range(5):\n        time.sleep(0.8)\n"
    assert run(f"{body}        {call}").returncode == code
