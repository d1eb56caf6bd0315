"""The pages in a browser: they work, and ask nobody but the endpoint."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser, browser, needs_chromium
from tests.serve.scripted import Server
from tests.speech import spoken

pytestmark = needs_chromium

PAGE = Path(__file__).parents[2] / "serve" / "web" / "index.html"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server(page=PAGE.read_text(encoding="utf-8"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def visit(tab: Browser, url: str) -> None:
    tab.problems.clear()
    tab.call("Page.navigate", url=url)
    wait(tab, "document.readyState == 'complete'")


def wait(tab: Browser, condition: str) -> None:
    until = time.monotonic() + 30
    while not tab.run(condition):
        assert time.monotonic() < until, f"never: {condition}"
        time.sleep(0.1)


def test_a_chosen_file_is_transcribed(server: Server, tab: Browser, tmp_path: Path) -> None:
    (tmp_path / "speech.flac").write_bytes(spoken(2))
    visit(tab, server.url + "/")
    document = tab.call("DOM.getDocument")["root"]["nodeId"]
    chooser = tab.call("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
    tab.call("DOM.setFileInputFiles", nodeId=chooser, files=[str(tmp_path / "speech.flac")])
    wait(tab, "!document.getElementById('answer').hidden")
    assert tab.run("document.getElementById('text').textContent") == "word 1"
    assert "2.0 s of audio" in tab.run("document.getElementById('figures').textContent")
    assert tab.problems == []


def test_the_page_of_the_api_is_shown_without_scripts_and_without_complaints(server: Server, tab: Browser) -> None:
    visit(tab, server.url + "/docs")
    assert "GET /v1/models" in tab.names("heading")
    assert tab.run("document.scripts.length") == 0
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")
    assert tab.problems == []
