"""Pages in Chromium, by its own protocol: opened, looked at, typed into."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

needs_chromium = pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here to open the page with")

_TIMEOUT_S = 60.0


class Browser:
    """One tab."""

    def __init__(self, connection: ClientConnection, profile: Path) -> None:
        self._connection, self._profile = connection, profile
        self._numbers = itertools.count()
        self.problems: list[str] = []
        """Errors of the page's scripts, and what the browser refused."""
        for domain in ("Page", "Runtime", "Log", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while (message := self._receive()).get("id") != number:
            pass
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._connection.recv(_TIMEOUT_S))
        if message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(message["params"]["exceptionDetails"]))
        if message.get("method") == "Log.entryAdded":
            self.problems.append(message["params"]["entry"]["text"])
        return message

    @contextlib.contextmanager
    def frame(self) -> Iterator["Browser"]:
        """A frame of another origin within the page, as soon as there is one."""
        with connect(_target(self._profile, "iframe"), max_size=None, open_timeout=_TIMEOUT_S) as connection:
            yield Browser(connection, self._profile)

    def open(self, page: Path | str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a file, or an address, and wait until it has loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])
        self.call("Page.navigate", url=page if isinstance(page, str) else page.absolute().as_uri())
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """A key with its Windows virtual key code, as the protocol wants it: Tab is 9, Enter 13."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def names(self, role: str) -> list[str]:
        """What a screen reader calls everything on the page that has a role."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        shown = [node for node in nodes if not node["ignored"] and node["role"]["value"] == role]
        return [node.get("name", {}).get("value", "") for node in shown]

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **(self._whole() if whole else {}))
        path.write_bytes(base64.b64decode(picture["data"]))

    def _whole(self) -> dict[str, Any]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {**size, "scale": 1}}


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Chromium with a new profile, until the block ends."""
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={profile}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with connect(_target(profile, "page"), max_size=None, open_timeout=_TIMEOUT_S) as connection:
            yield Browser(connection, profile)
    finally:
        process.terminate()
        process.wait(_TIMEOUT_S)


def _target(profile: Path, kind: str) -> str:
    """The address of the first `page`, which is a tab, or `iframe`, as soon as there is one."""
    import urllib.request

    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        with contextlib.suppress(OSError, ValueError, StopIteration):
            port = (profile / "DevToolsActivePort").read_text().splitlines()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                tabs = json.load(answer)
            return str(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == kind))
        assert time.monotonic() < deadline, f"Chromium shows no {kind}"
        time.sleep(0.1)
