"""Compiled layers compute what the others do, keep their names, and are done without where there is no compiler."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch._inductor.config
import torch._inductor.exc
from torch._dynamo.testing import CompileCounter

from caspi.model import Loaded, attention, load
from caspi.recipe.sections import Optimizer
from caspi.training.compiling import compile_layers, eagerly
from caspi.training.step import Objective, StepResult, build_optimizer, train_step
from tests.training.one_step import batches, make_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    make_model(folder)
    return folder


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def updates(loaded: Loaded) -> list[StepResult]:
    """Three, each from batches of another size."""
    loaded.model.train()
    optimizer = build_optimizer(loaded.model, Optimizer(learning_rate=5e-4))
    objective = Objective(CPU, autocast=None, max_grad_norm=1.0)
    return [train_step(loaded.model, optimizer, batches(loaded, 0, 8, size), objective) for size in (8, 3, 5)]


def test_a_compiled_model_learns_the_same(start: Path):
    plain, compiled = load(start), load(start)
    if problem := compile_layers(compiled.model, CPU):
        pytest.skip(f"no compiler here: {problem}")
    for ours, theirs in zip(updates(compiled), updates(plain), strict=True):
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-5)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)
    weights = dict(plain.model.state_dict())
    for name, weight in compiled.model.state_dict().items():
        torch.testing.assert_close(weight, weights[name], atol=2e-5, rtol=0, msg=name)


def test_any_number_of_packed_utterances_is_one_code():
    counter = CompileCounter()
    layer = Attending()
    layer.compile(dynamic=True, backend=counter)
    for num_pieces in range(2, 14):
        lengths = [5] * num_pieces
        tensors = [torch.randn(1, 1, sum(lengths), 4) for _ in range(3)]
        layer(*tensors, **attention.pieces(lengths, CPU))
    assert counter.frame_count <= 2, "what comes before the pieces, and the layer around it"


class Attending(torch.nn.Module):
    """What attends in a layer."""

    is_causal = True
    num_key_value_groups = 1

    def forward(self, *tensors: torch.Tensor, **told: object) -> torch.Tensor:
        return 2 * attention.attend(self, *tensors, None, scaling=1.0, **told)[0]


def test_without_a_compiler_layers_stay_as_they_are_and_it_says_why(start: Path, monkeypatch: pytest.MonkeyPatch):
    def nothing(*_: object) -> None:
        raise torch._inductor.exc.InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", nothing)
    loaded = load(start)
    with torch._inductor.config.patch(force_disable_caches=True):
        problem = compile_layers(loaded.model, CPU)
    assert problem is not None
    assert "InvalidCxxCompiler" in problem
    assert updates(loaded)[0].loss > 0


def test_decoding_does_not_compile_anything(start: Path):
    loaded = load(start)
    if problem := compile_layers(loaded.model, CPU):
        pytest.skip(f"no compiler here: {problem}")
    torch._dynamo.utils.counters.clear()
    (batch,) = batches(loaded, 0, 64, 1)
    with eagerly(is_compiled=True), torch.no_grad():
        loaded.model.eval()(input_ids=batch.input_ids, input_features=batch.features.values,
                            input_features_mask=batch.features.mask)  # fmt: skip
    assert not torch._dynamo.utils.counters["stats"]
