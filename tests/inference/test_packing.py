"""Layers that use oneDNN compute what PyTorch's compute."""

import copy

import pytest
import torch

from caspi.inference.engine import Clip, drain
from caspi.inference.packing import PackedConv2d, PackedLinear, pack
from caspi.inference.transformers_engine import TransformersEngine
from caspi.model import Loaded
from caspi.recipe.sections import Inference
from tests.inference.conftest import noise

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (16,), (101,), (3, 13)])
def test_a_packed_layer_gives_the_same_numbers(shape: tuple[int, ...], bias: bool) -> None:
    linear = torch.nn.Linear(96, 40, bias=bias)
    inputs = torch.randn(*shape, 96)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(inputs), linear(inputs))


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_convolution_gives_the_same_numbers_at_any_size(bias: bool) -> None:
    convolution = torch.nn.Conv2d(3, 20, 3, 2, padding=1, bias=bias)
    packed = PackedConv2d(convolution)
    with torch.inference_mode():
        for shape in ((4, 3, 32, 25), (1, 3, 32, 25), (2, 3, 7, 50)):
            inputs = torch.randn(shape)
            torch.testing.assert_close(packed(inputs), convolution(inputs))


@needs_onednn
@pytest.mark.usefixtures("without_guard")
def test_a_packed_model_gives_the_same_answers(loaded: Loaded) -> None:
    packed = Loaded(copy.deepcopy(loaded.model), loaded.processor, loaded.prompter)
    pack(packed.model)
    assert not [module for module in packed.model.modules() if type(module) in (torch.nn.Linear, torch.nn.Conv2d)]
    clips = [Clip.of(noise(seconds, seed=number)) for number, seconds in enumerate((1.0, 3.0, 0.5))]
    answers, expected = (
        [each.text for each in drain(TransformersEngine(model, limits=Inference()), clips)]
        for model in (packed, loaded)
    )
    assert answers == expected


@needs_onednn
@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16 for oneDNN")
def test_a_model_in_half_precision_is_packed_too(loaded: Loaded) -> None:
    clips = [
        Clip(noise(seconds, seed=number), seconds, with_log_probs=True)
        for number, seconds in enumerate((1.0, 3.0, 0.5))
    ]
    half = Loaded(copy.deepcopy(loaded.model).bfloat16(), loaded.processor, loaded.prompter)
    pack(half.model)
    assert not [module for module in half.model.modules() if type(module) in (torch.nn.Linear, torch.nn.Conv2d)]
    firsts = [
        [answer.log_probs[0].log_prob for answer in drain(TransformersEngine(model, limits=Inference()), clips)]
        for model in (half, loaded)
    ]
    assert firsts[0] == pytest.approx(firsts[1], abs=0.5)


def test_layers_in_other_types_stay(loaded: Loaded) -> None:
    model = copy.deepcopy(loaded.model).double()
    pack(model)
    assert not [module for module in model.modules() if isinstance(module, PackedLinear | PackedConv2d)]
