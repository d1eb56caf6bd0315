"""`caspi export --model`: one of two layouts, and a clear answer to every other wish."""

import json
from pathlib import Path

import pytest
import torch

from caspi import cli
from caspi.model import Loaded, load
from tests.model.originals import write_original


@pytest.fixture
def native(toy: Loaded, tmp_path: Path) -> Path:
    toy.save(tmp_path / "native")
    return tmp_path / "native"


def test_a_model_is_exported_in_the_original_layout_and_back(toy, native: Path, tmp_path: Path, capsys):
    qwen, back = tmp_path / "qwen", tmp_path / "back"
    arguments = ["export", "--model", str(native), "--output", str(qwen), "--layout", "qwen", "--language", "he"]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == f"qwen: {qwen}\n"
    config = json.loads((qwen / "config.json").read_text())
    assert "thinker_config" in config
    assert config["support_languages"][-1] == "Hebrew"
    assert cli.main(["export", "--model", str(qwen), "--output", str(back), "--layout", "native"]) == 0
    assert torch.equal(load(back).model.lm_head.weight, toy.model.lm_head.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "m"], "--layout is missing; expected native or qwen"),
        (["--model", "m", "--layout", "qwen", "--format", "nemo"], "--format belongs to --corpus"),
        (["--model", "m", "--layout", "qwen", "--split", "test"], "--split belongs to --corpus"),
        (["--corpus", "c", "--layout", "qwen"], "--layout belongs to --model"),
        (["--corpus", "c", "--language", "he"], "--language belongs to --model"),
        (["--model", "m", "--layout", "native", "--language", "he"], "--language belongs to --layout qwen"),
        (["--model", "m", "--layout", "qwen", "--language", "xx"], "language 'xx' is unknown"),
        (["--model", "m", "--layout", "qwen"], "m: no such model"),
    ],
)
def test_a_wrong_combination_is_one_clear_line(arguments: list[str], message: str, tmp_path: Path, capsys):
    assert cli.main(["export", *arguments, "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("caspi: ")
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["--model", "m", "--corpus", "c"], ["--model", "m", "--layout", "gguf"]])
def test_what_the_parser_does_not_know_exits_with_2(arguments: list[str], tmp_path: Path):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["export", *arguments, "--output", str(tmp_path / "out")])
    assert stopped.value.code == 2


def test_a_damaged_model_is_one_line_and_nothing_is_written(toy: Loaded, tmp_path: Path, capsys):
    folder = write_original(toy, tmp_path / "original")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert cli.main(["export", "--model", str(folder), "--output", str(tmp_path / "out"), "--layout", "native"]) == 2
    assert "model.safetensors: not readable as safetensors" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original"]
