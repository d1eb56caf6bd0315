"""Opening models: nothing is half accepted. The original layout has its own tests, in test_conversion.py."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from caspi.errors import ModelError
from caspi.model import Loaded, load, load_prompter
from tests.model.originals import write_original


@pytest.fixture
def folder(toy: Loaded, tmp_path: Path) -> Path:
    toy.save(tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_comes_back_bit_for_bit(toy: Loaded, folder: Path):
    again = load(folder).model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in toy.model.state_dict().items())
    assert not list(folder.glob("*.bin")), "weights are safetensors, never pickles"


def test_prompts_can_be_had_without_a_model(toy: Loaded, folder: Path):
    assert load_prompter(folder).prompt(3, context="שלום") == toy.prompter.prompt(3, context="שלום")


def test_prompts_of_a_folder_without_a_tokenizer_are_refused(folder: Path):
    (folder / "processor_config.json").unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError):
        load_prompter(folder)


def test_a_missing_weight_is_refused_by_name(folder: Path):
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.multi_modal_projector.linear_2.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing: model\.multi_modal_projector\.linear_2\.weight"):
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


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub as it looks without a network: what was downloaded before, under one revision."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--someone--speech"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abc")
    return repository / "snapshots" / "0123abc"


def test_a_hub_id_is_opened_in_the_native_layout(toy: Loaded, hub: Path):
    toy.save(hub)
    assert torch.equal(load("someone/speech").model.lm_head.weight, toy.model.lm_head.weight)


def test_a_hub_id_is_opened_in_the_original_layout(toy: Loaded, hub: Path):
    write_original(toy, hub, num_files=2)
    assert torch.equal(load("someone/speech").model.lm_head.weight, toy.model.lm_head.weight)


def test_a_hub_id_that_the_hub_does_not_give_is_refused(hub: Path):
    with pytest.raises(ModelError, match="someone/else: no such folder, and the Hub does not give it"):
        load("someone/else")


@pytest.mark.parametrize("name", ["some one/speech", "someone/sp--eech"])
def test_a_name_that_can_be_no_hub_id_is_refused(hub: Path, name: str):
    with pytest.raises(ModelError, match="no such folder"):
        load(name)


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
