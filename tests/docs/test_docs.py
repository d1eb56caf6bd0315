"""What the documents say must be there: files, headings, tests, commands, recipes. Nothing here starts anything."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml

from caspi import settings
from caspi.cli import build_parser
from caspi.recipe import parse_recipe

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("cluster/*.md")])

LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

# Of a shell line, what begins another command; and Python examples that need a model or an endpoint.
SEPARATORS = {"|", "&&", "||", ";", "&"}
NEEDS_A_MODEL = ("OpenAI(", "Transcriber.load(")

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def read(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [content for found, content in BLOCK.findall(read(document)) if found == language]


def commands(document: Path) -> list[list[str]]:
    """The words of every command in the bash blocks, without variables set before it."""
    found: list[list[str]] = []
    for block in blocks(document, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            command: list[str] = []
            for word in [*shlex.split(line, comments=True), ";"]:
                if word in SEPARATORS:
                    found += [command] if command else []
                    command = []
                elif command or not re.fullmatch(r"[A-Z_]+=.*", word):
                    command.append(word)
    return found


def anchor(heading: str) -> str:
    """The name that a heading gets in a link."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def parse_words(words: list[str]) -> None:
    """As `caspi` would. What follows `--` belongs to a job."""
    build_parser().parse_args(words[: words.index("--")] if "--" in words else words)


@each_document
def test_every_relative_link_leads_somewhere(document: Path):
    for text, link in LINK.findall(BLOCK.sub("", read(document))):
        path, _, heading = link.partition("#")
        if "://" in link:
            continue
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{link}: no such file"
        if heading:
            headings = re.findall(r"^#+ (.*)$", read(target), re.MULTILINE)
            assert heading in map(anchor, headings), f"{link}: no such heading"
        if text.startswith("`test_"):
            assert f"def {text.strip('`')}(" in read(target), f"{link} has no {text}"


@each_document
def test_every_caspi_command_parses(document: Path, capsys: pytest.CaptureFixture[str]):
    for command in commands(document):
        if Path(command[0]).name == "caspi":
            try:
                parse_words(command[1:])
            except SystemExit:
                pytest.fail(f"{shlex.join(command)}\n{capsys.readouterr().err}", pytrace=False)


@each_document
def test_every_make_target_and_every_job_exists(document: Path):
    for command in commands(document):
        if command[0] == "make":
            assert set(command[1:]) <= TARGETS, command
        for module in re.findall(r"\bjobs\.(\w+)", shlex.join(command)):
            assert (ROOT / "jobs" / f"{module}.py").is_file(), command
        for word in command:
            if word.startswith(("jobs/", "serve/", "cluster/", "tests/")):
                assert (ROOT / word).exists(), command


@each_document
def test_every_recipe_and_part_of_one_is_valid(document: Path):
    for block in blocks(document, "yaml"):
        values = yaml.safe_load(block)
        parse_recipe({"name": "example", "data": {"sources": [{"kind": "folder", "path": "speech"}]}} | values)


@each_document
def test_python_examples_compile_and_those_without_a_model_run(document: Path):
    for block in blocks(document, "python"):
        code = compile(ast.parse(block), str(document), "exec")
        if not any(need in block for need in NEEDS_A_MODEL):
            exec(code, {})


@each_document
def test_no_figure_is_left_open(document: Path):
    assert re.findall(r"@@\w+@@", read(document)) == []


def test_every_environment_variable_is_documented():
    source = Path(settings.__file__).read_text(encoding="utf-8")
    operations = read(ROOT / "docs" / "operations.md")
    for variable in re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", source):
        assert f"`{variable}`" in operations, variable
