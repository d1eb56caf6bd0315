"""The original layout: read as it is, written bit by bit, refused by name where something is wrong with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from caspi.errors import ModelError
from caspi.model import Loaded, load, loss_sums, to_native, to_qwen
from tests.model.making import batch_of, noise
from tests.model.originals import original_config, original_tensors, write_original, write_tensors


def same_weights(one: Loaded, other: Loaded) -> bool:
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(params=[1, 3], ids=["one file", "three files"])
def original(toy: Loaded, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return write_original(toy, tmp_path / "original", num_files=request.param)


@pytest.fixture
def native(toy: Loaded, tmp_path: Path) -> Path:
    toy.save(tmp_path / "native")
    return tmp_path / "native"


def test_an_original_checkpoint_is_the_same_model(toy: Loaded, original: Path):
    loaded = load(original)
    assert same_weights(loaded, toy)
    batch = batch_of(loaded.prompter, [noise(0.4), noise(3)], ["שלום", "ילד הולך"])
    expected = batch_of(toy.prompter, [noise(0.4), noise(3)], ["שלום", "ילד הולך"])
    assert torch.equal(batch.input_ids, expected.input_ids)
    assert torch.equal(loss_sums(loaded.model, batch).cross_entropy, loss_sums(toy.model, expected).cross_entropy)
    assert loaded.model.generation_config.max_new_tokens == 512


def test_a_model_opened_from_the_original_layout_is_saved_in_the_native_one(
    toy: Loaded, original: Path, tmp_path: Path
):
    load(original).save(tmp_path / "saved")
    assert same_weights(load(tmp_path / "saved"), toy)
    assert "thinker_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())


def test_to_native_writes_what_transformers_itself_opens(toy: Loaded, original: Path, tmp_path: Path):
    from transformers import AutoProcessor, Qwen3ASRForConditionalGeneration

    to_native(original, tmp_path / "native")
    model, report = Qwen3ASRForConditionalGeneration.from_pretrained(tmp_path / "native", output_loading_info=True)
    assert not any(report.values())
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in toy.model.state_dict().items())
    processor = AutoProcessor.from_pretrained(tmp_path / "native")
    assert processor.tokenizer.get_vocab() == toy.processor.tokenizer.get_vocab()
    assert processor.chat_template == toy.processor.chat_template


def test_to_qwen_writes_the_names_of_the_original_layout(toy: Loaded, native: Path, tmp_path: Path):
    to_qwen(native, tmp_path / "qwen", languages=["Hebrew"])
    written, expected = load_file(tmp_path / "qwen" / "model.safetensors"), original_tensors(toy)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    config = json.loads((tmp_path / "qwen" / "config.json").read_text())
    assert len(config["support_languages"]) == 31
    assert config["support_languages"][-1] == "Hebrew"
    ours, theirs = config["thinker_config"], original_config(toy)["thinker_config"]
    for section in ("audio_config", "text_config"):
        different = {key for key in ours[section] if ours[section][key] != theirs[section].get(key)}
        assert different <= {"rope_scaling", "pad_token_id", "eos_token_id"}
    assert sum(ours["text_config"]["rope_scaling"]["mrope_section"]) == toy.model.config.text_config.head_dim // 2


def test_there_and_back_is_the_same_to_the_bit(native: Path, tmp_path: Path):
    to_qwen(native, tmp_path / "qwen")
    to_native(tmp_path / "qwen", tmp_path / "back")
    for name in ("model.safetensors", "tokenizer.json", "chat_template.jinja", "processor_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (native / name).read_bytes(), name
    for name in ("config.json", "generation_config.json"):
        before, after = (json.loads((folder / name).read_text()) for folder in (native, tmp_path / "back"))
        after.pop("support_languages", None)
        assert after == before


def test_the_tokenizer_that_is_written_is_one_that_transformers_4_reads(native: Path, tmp_path: Path):
    to_qwen(native, tmp_path / "qwen")
    config = json.loads((tmp_path / "qwen" / "tokenizer_config.json").read_text())
    assert isinstance(config["extra_special_tokens"], dict), "transformers 4 asks a list for its keys and fails"
    assert config["audio_token"] == "<|audio_pad|>"
    assert {"vocab.json", "merges.txt", "tokenizer.json", "chat_template.json", "preprocessor_config.json"} <= {
        path.name for path in (tmp_path / "qwen").iterdir()
    }
    # Plain Jinja, which other engines have, knows no `generation` tag.
    import jinja2

    template = json.loads((tmp_path / "qwen" / "chat_template.json").read_text())["chat_template"]
    messages = [{"role": "user", "content": [{"type": "audio"}]}]
    rendered = jinja2.Environment().from_string(template).render(messages=messages, add_generation_prompt=True)
    assert rendered.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|audio_start|>")


@pytest.mark.parametrize("num_files", [1, 3])
def test_each_layout_can_be_written_from_each(toy: Loaded, tmp_path: Path, num_files: int):
    original = write_original(toy, tmp_path / "original", num_files=num_files)
    to_qwen(original, tmp_path / "qwen")
    to_native(tmp_path / "qwen", tmp_path / "native")
    to_native(tmp_path / "native", tmp_path / "copy")
    assert same_weights(load(tmp_path / "copy"), toy)
    assert len(list((tmp_path / "copy").glob("*.safetensors"))) == num_files


def test_half_precision_stays_half_precision(toy: Loaded, tmp_path: Path):
    original = write_original(toy, tmp_path / "original")
    config = original_config(toy)
    config["thinker_config"]["dtype"] = "bfloat16"
    (original / "config.json").write_text(json.dumps(config))
    write_tensors({name: tensor.bfloat16() for name, tensor in original_tensors(toy).items()}, original)
    to_native(original, tmp_path / "native")
    tensors = load_file(tmp_path / "native" / "model.safetensors").values()
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
    assert json.loads((tmp_path / "native" / "config.json").read_text())["dtype"] == "bfloat16"
    assert next(load(original, dtype=torch.float32).model.parameters()).dtype == torch.float32


def test_what_a_config_leaves_out_is_what_the_original_code_takes(toy: Loaded, tmp_path: Path):
    from caspi.model.layouts import native_config

    config = original_config(toy)
    for key in ("n_window", "encoder_layers"):
        config["thinker_config"]["audio_config"].pop(key)
    for key in ("tie_word_embeddings", "rope_theta"):
        config["thinker_config"]["text_config"].pop(key)
    native = native_config(config)
    assert (native["audio_config"]["n_window"], native["audio_config"]["encoder_layers"]) == (100, 32)
    assert native["text_config"]["rope_parameters"]["rope_theta"] == 5_000_000
    assert not native["tie_word_embeddings"]


def changed(toy: Loaded, folder: Path, change: Callable[[dict], object]) -> Path:
    tensors = original_tensors(toy)
    change(tensors)
    write_original(toy, folder)
    write_tensors(tensors, folder)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("thinker.model.norm.weight"), r"missing: thinker\.model\.norm\.weight"),
        (lambda tensors: tensors.update({"thinker.stray": torch.zeros(1)}), r"unexpected: thinker\.stray"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.zeros(1)}), r"unexpected: model\.norm\.weight"),
        (
            lambda tensors: tensors.update({"thinker.audio_tower.proj1.bias": torch.zeros(7)}),
            r"of another shape: thinker\.audio_tower\.proj1\.bias is \[7\] instead of \[32\]",
        ),
        (lambda tensors: tensors["thinker.lm_head.weight"].add_(1), r"thinker\.lm_head\.weight differs from"),
        (
            lambda tensors: tensors.update({"thinker.model.layers.0.mlp.experts.0.up_proj.weight": torch.zeros(1)}),
            "a mixture of experts",
        ),
        (
            lambda tensors: [tensors.pop(name) for name in list(tensors) if ".layers.0.self_attn." in name],
            r"missing: (thinker\S+, ){4}thinker\S+ and 9 more",
        ),
    ],
)
@pytest.mark.parametrize("do", ["load", "to_native", "to_qwen"])
def test_weights_that_do_not_fit_are_refused_by_name(toy: Loaded, tmp_path: Path, change, message: str, do: str):
    folder = changed(toy, tmp_path / "original", change)
    with pytest.raises(ModelError, match=message):
        load(folder) if do == "load" else {"to_native": to_native, "to_qwen": to_qwen}[do](folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_its_output_layer_a_tied_model_is_whole(toy: Loaded, tmp_path: Path):
    folder = changed(toy, tmp_path / "original", lambda tensors: tensors.pop("thinker.lm_head.weight"))
    assert same_weights(load(folder), toy)


def test_an_untied_output_layer_is_kept(toy: Loaded, tmp_path: Path):
    folder = changed(toy, tmp_path / "original", lambda tensors: tensors["thinker.lm_head.weight"].add_(1))
    config = original_config(toy)
    config["thinker_config"]["text_config"]["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config))
    to_native(folder, tmp_path / "native")
    to_qwen(tmp_path / "native", tmp_path / "back")
    written, expected = load_file(tmp_path / "back" / "model.safetensors"), load_file(folder / "model.safetensors")
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    model = load(tmp_path / "native").model
    assert torch.equal(model.lm_head.weight, model.get_input_embeddings().weight + 1)


def test_a_truncated_file_is_named(toy: Loaded, tmp_path: Path):
    folder = write_original(toy, tmp_path / "original", num_files=3)
    damaged = folder / "model-00002-of-00003.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model-00002-of-00003\.safetensors: not readable as safetensors"):
        load(folder)


def test_a_file_that_the_index_names_and_is_not_there_is_named(toy: Loaded, tmp_path: Path):
    folder = write_original(toy, tmp_path / "original", num_files=3)
    (folder / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-00003-of-00003\.safetensors"):
        to_native(folder, tmp_path / "native")


def test_a_tensor_in_two_files_is_refused(toy: Loaded, tmp_path: Path):
    folder = write_original(toy, tmp_path / "original", num_files=2)
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors")
    with pytest.raises(ModelError, match=r"stands in model-00001-of-00002\.safetensors and in"):
        load(folder)


@pytest.mark.parametrize("index", ["{}", "[", "[]"])
def test_an_index_that_is_none_is_refused(toy: Loaded, tmp_path: Path, index: str):
    folder = write_original(toy, tmp_path / "original", num_files=2)
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match="not an index of weights"):
        load(folder)


def test_a_folder_without_weights_is_refused(toy: Loaded, tmp_path: Path):
    folder = write_original(toy, tmp_path / "original")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load(folder)


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        (None, {"classify_num": 5000}, "forced aligner"),
        ("text_config", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "RoPE of type 'yarn'"),
        ("audio_config", {"n_window": 100}, "n_window"),
        ("audio_config", {"num_mel_bins": 80}, "num_mel_bins"),
        ("audio_config", {"n_window_infer": 850}, "n_window_infer"),
        ("text_config", {"hidden_size": "many"}, "hidden_size"),
        (None, {"audio_config": None}, "not a config of Qwen3-ASR"),
        (None, {"text_config": ["hidden_size"]}, "not a config of Qwen3-ASR"),
    ],
)
def test_configs_of_other_models_are_refused(toy: Loaded, tmp_path: Path, section, fields: dict, message: str):
    config = original_config(toy)
    thinker = config["thinker_config"]
    (thinker if section is None else thinker[section]).update(fields)
    with pytest.raises(ModelError, match=message):
        load(write_original(toy, tmp_path / "original", config=config))


@pytest.mark.parametrize("key", ["audio_config", "text_config", "audio_token_id"])
def test_a_config_without_a_section_is_refused(toy: Loaded, tmp_path: Path, key: str):
    config = original_config(toy)
    del config["thinker_config"][key]
    with pytest.raises(ModelError, match=f"thinker_config lacks {key}"):
        load(write_original(toy, tmp_path / "original", config=config))


def test_a_native_forced_aligner_is_refused(native: Path):
    config = json.loads((native / "config.json").read_text())
    config["architectures"] = ["Qwen3ASRForTokenClassification"]
    (native / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="forced aligner"):
        load(native)


def test_what_the_original_layout_cannot_say_is_refused_by_name(native: Path, tmp_path: Path):
    config = json.loads((native / "config.json").read_text())
    config["text_config"] |= {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}
    config["text_config"]["layer_types"] = ["full_attention", "sliding_attention"]
    (native / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"no place for .*text_config\.use_sliding_window"):
        to_qwen(native, tmp_path / "qwen")
    assert not (tmp_path / "qwen").exists()


def test_an_audio_token_of_another_tokenizer_is_refused(toy: Loaded, tmp_path: Path):
    config = original_config(toy)
    config["thinker_config"]["audio_token_id"] = 5
    with pytest.raises(ModelError, match="audio_token_id=5"):
        load(write_original(toy, tmp_path / "original", config=config))


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt", "tokenizer_config.json"])
@pytest.mark.parametrize("do", [load, lambda folder: to_native(folder, folder.parent / "out")])
def test_a_tokenizer_that_is_not_whole_is_refused(toy: Loaded, tmp_path: Path, missing: str, do):
    folder = write_original(toy, tmp_path / "original")
    (folder / missing).unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        do(folder)
    assert not (tmp_path / "out").exists()


def test_settings_of_generation_that_transformers_never_saves_are_left_out(toy: Loaded, tmp_path: Path, caplog):
    folder = write_original(toy, tmp_path / "original")
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False, "temperature": 0.01}))
    load(folder).save(tmp_path / "saved")
    assert "generation_config.json is left out" in caplog.text
    assert "temperature" not in json.loads((tmp_path / "saved" / "generation_config.json").read_text())


def test_a_folder_that_holds_something_is_not_written_into(native: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("keep me")
    with pytest.raises(ModelError, match="not empty"):
        to_qwen(native, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious.txt"]


def test_an_empty_folder_is_filled_and_nothing_is_left_beside_it(native: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    to_qwen(native, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["native", "out"]
    modes = {path.stat().st_mode for path in (tmp_path / "out").iterdir()}
    assert len(modes) == 1, "weights are as readable as the rest"
