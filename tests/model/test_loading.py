"""Opening models: nothing is half accepted."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from caspi.errors import ModelError
from caspi.model import Loaded, load, load_prompter


@pytest.fixture
def folder(toy: Loaded, tmp_path: Path) -> Path:
    toy.save(tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_comes_back_bit_for_bit(toy: Loaded, folder: Path):
    again = load(folder).model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in toy.model.state_dict().items())
    assert not list(folder.glob("*.bin")), "weights are safetensors, never pickles"


def test_prompts_can_be_had_without_the_weights(toy: Loaded, folder: Path):
    (folder / "model.safetensors").unlink()
    assert load_prompter(folder).prompt(3, context="שלום") == toy.prompter.prompt(3, context="שלום")


def test_prompts_of_a_folder_without_a_tokenizer_are_refused(folder: Path):
    (folder / "processor_config.json").unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError):
        load_prompter(folder)


def test_the_original_layout_is_refused(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"thinker_config": config}))
    with pytest.raises(ModelError, match="original layout"):
        load(folder)


def test_a_missing_weight_is_refused_by_name(folder: Path):
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.multi_modal_projector.linear_2.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing keys: model\.multi_modal_projector\.linear_2\.weight"):
        load(folder)


def test_an_unexpected_weight_is_refused_by_name(folder: Path):
    weights = load_file(folder / "model.safetensors")
    weights["model.audio_tower.stray"] = torch.zeros(1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="stray"):
        load(folder)


def test_a_truncated_file_is_refused(folder: Path):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError):
        load(folder)


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "toy-model"])
def test_a_folder_that_is_not_there_is_refused(name: str):
    with pytest.raises(ModelError, match="no such model"):
        load(name)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=r"no readable config\.json"):
        load(tmp_path)


def test_another_kind_of_model_is_refused(folder: Path):
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper"}))
    with pytest.raises(ModelError, match="'whisper'; expected 'qwen3_asr'"):
        load(folder)


def test_a_tokenizer_larger_than_the_embedding_is_refused(toy: Loaded):
    import copy

    processor = copy.deepcopy(toy.processor)
    processor.tokenizer.add_tokens([f"word{i}" for i in range(2000)])
    with pytest.raises(ModelError, match="not of the same checkpoint"):
        Loaded.wrap(toy.model, processor)
