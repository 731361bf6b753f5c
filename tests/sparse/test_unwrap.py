"""Networks in wrappers, and networks whose weights torch computes, in every function."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

import strzoo
from strzoo.errors import UsageError
from strzoo.sparse.selection import prunable_layers
from strzoo.sparse.unwrap import fold_parametrizations_, plain_network, unwrap
from tests.helpers.foreign import small_network

SIZE = (3, 16, 16)
IMAGES = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(1))
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.fc = nn.Conv2d(8, 16, 3, stride=2), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        return self.fc(x.mean((2, 3)))


def make(parametrise: Callable[..., object] | None = None) -> Net:
    torch.manual_seed(0)
    model = Net().eval()
    if parametrise is not None:
        for layer in prunable_layers(model).values():
            parametrise(layer)
    return model


def pruned(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", amount=0.9)


def pruned_twice(layer: nn.Module) -> None:
    prune.random_unstructured(layer, "weight", amount=0.5)
    prune.l1_unstructured(layer, "weight", amount=0.5)
    prune.random_unstructured(layer, "bias", amount=0.5)


def pruned_for_good(layer: nn.Module) -> None:
    pruned(layer)
    prune.remove(layer, "weight")


PARAMETRISED: dict[str, Callable[..., object]] = {
    "pruned": pruned,
    "pruned twice": pruned_twice,
    "pruned for good": pruned_for_good,
    "weight norm": weight_norm,
    "new weight norm": parametrizations.weight_norm,
    "spectral norm": spectral_norm,
    "new spectral norm": parametrizations.spectral_norm,
}
WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "torch.compile": torch.compile,  # type: ignore[dict-item]
    "two": lambda model: AveragedModel(nn.DataParallel(model)),
}


def _zeros(model: nn.Module) -> float:
    """Percent of zeros, from the weights that torch computes."""
    weights = torch.cat([m.weight.flatten() for m in prunable_layers(unwrap(model)).values()])
    return 100 * float((weights == 0).float().mean())


def _check_everywhere(model: nn.Module, tmp_path: Path) -> None:
    """Each function takes the network, agrees with torch about it and leaves it as it was."""
    with torch.no_grad():
        expected = unwrap(model).eval()(IMAGES).clone()
    keys, sparsity = list(model.state_dict()), _zeros(model)
    made = strzoo.report(model, input_size=SIZE)
    assert made.sparsity == pytest.approx(sparsity)
    assert (made.weights, made.params) == (1432, 1476)  # 8*27 + 16*72 + 16*4; 28 biases, 16 of norm
    assert made.architecture == "Net"
    exported = strzoo.export_onnx(model, tmp_path / "a.onnx", input_size=SIZE)
    assert exported.sparsity == pytest.approx(sparsity)
    assert exported.relative_difference < 1e-5
    compiled = strzoo.compile(model, size=16, cache=False)
    torch.testing.assert_close(torch.as_tensor(compiled(IMAGES)), expected, rtol=1e-4, atol=1e-5)
    written = strzoo.export_matrices(model, tmp_path / "matrices", input_size=SIZE)
    assert len(written.layers) == 3
    assert strzoo.evaluate(model, [(IMAGES, expected.argmax(1))]).correct_top1 == 2
    assert list(model.state_dict()) == keys
    with torch.no_grad():
        assert torch.equal(unwrap(model)(IMAGES), expected)


@pytest.mark.parametrize("name", PARAMETRISED)
def test_computed_weights_are_plain_in_a_copy(name: str) -> None:
    model = make(PARAMETRISED[name])
    model(IMAGES).sum().backward()  # after a step the weight is no leaf, and torch copies no such
    keys = list(model.state_dict())
    plain = plain_network(model)
    assert plain.state_dict().keys() == Net().state_dict().keys()
    with torch.no_grad():
        torch.testing.assert_close(plain(IMAGES), model(IMAGES))
    assert strzoo.report(model, input_size=SIZE).sparsity == pytest.approx(_zeros(model))
    assert list(model.state_dict()) == keys


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pruned", "new spectral norm"])
def test_computed_weights_are_understood_everywhere(name: str, tmp_path: Path) -> None:
    model = make(PARAMETRISED[name])
    model(IMAGES).sum().backward()  # after a step the weight is no leaf, and torch copies no such
    _check_everywhere(model, tmp_path)


@pytest.mark.slow
def test_a_wrapped_network_is_understood_everywhere(tmp_path: Path) -> None:
    _check_everywhere(WRAPPED["two"](make()), tmp_path)


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_are_looked_through(name: str, tmp_path: Path) -> None:
    inner = make()
    wrapped = WRAPPED[name](inner)
    assert type(unwrap(wrapped)) is Net
    assert strzoo.report(wrapped, input_size=SIZE) == strzoo.report(inner, input_size=SIZE)
    own = small_network()
    path = strzoo.save_checkpoint(WRAPPED[name](own), tmp_path / "a.pth")
    assert torch.equal(strzoo.load(path)(IMAGES), own(IMAGES))
    assert strzoo.sparsify_(wrapped, skip=["fc"], s_init=-3.0) is wrapped
    expected = unwrap(wrapped)(IMAGES)
    assert isinstance(strzoo.to_dense_(wrapped), type(wrapped))
    assert torch.equal(unwrap(wrapped)(IMAGES), expected)
    assert type(unwrap(wrapped).first) is nn.Conv2d


@pytest.mark.slow
def test_a_network_of_several_processes_is_looked_through(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(make(pruned))
        expected = strzoo.report(make(pruned), input_size=SIZE)
        assert strzoo.report(wrapped, input_size=SIZE) == expected
        assert strzoo.export_onnx(wrapped, tmp_path / "a.onnx", input_size=SIZE).sparsity > 89
    finally:
        torch.distributed.destroy_process_group()


def test_wrappers_inside_are_taken_out_of_the_copy_only(tmp_path: Path) -> None:
    model = make()
    model.register_module("second", nn.DataParallel(model.second))
    assert [type(m) for m in plain_network(model).children()] == [
        nn.Conv2d, nn.BatchNorm2d, nn.Conv2d, nn.Linear,
    ]  # fmt: skip
    assert isinstance(model.second, nn.DataParallel)
    assert strzoo.report(model, input_size=SIZE).layers[1].name == "second"


@pytest.mark.parametrize("name", PARAMETRISED)
@pytest.mark.parametrize("method", ["str", "gmp"])
def test_computed_weights_become_sparse_and_dense_again(name: str, method: str) -> None:
    model = make(PARAMETRISED[name])
    with torch.no_grad():
        expected = model(IMAGES)
    strzoo.sparsify_(model, method)  # both begin without dropping anything
    assert not any("_orig" in key or "original" in key for key in model.state_dict())
    torch.testing.assert_close(model(IMAGES), expected)
    model.train()(IMAGES).sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "Threshold" not in n)
    model.eval()
    with torch.no_grad():
        now = model(IMAGES)
    strzoo.to_dense_(model)
    torch.testing.assert_close(model(IMAGES), now)
    assert {type(layer) for layer in prunable_layers(model).values()} == {nn.Conv2d, nn.Linear}


def test_folding_one_copy_leaves_the_other_as_it_is() -> None:
    # torch gives copies one class, and takes its property away.
    model = make(parametrizations.weight_norm)
    other = copy.deepcopy(model)
    with torch.no_grad():
        expected = model(IMAGES)
        fold_parametrizations_(other)
        torch.testing.assert_close(other(IMAGES), expected)
        assert torch.equal(model(IMAGES), expected)
    assert isinstance(other.first.weight, nn.Parameter)
    frozen = make(parametrizations.weight_norm).requires_grad_(False)
    with torch.no_grad():
        fold_parametrizations_(frozen)
    assert not frozen.first.weight.requires_grad
    assert isinstance(frozen.first.weight, nn.Parameter)


@pytest.mark.parametrize("name", ["pruned", "weight norm", "new weight norm", "new spectral norm"])
def test_a_network_whose_conversion_fails_is_as_it_was(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(PARAMETRISED[name])
    with torch.no_grad():
        expected, keys = model(IMAGES), list(model.state_dict())
    calls = []

    def fail(layer: nn.Module, *args: object, **options: object) -> None:
        calls.append(layer)
        if len(calls) == 2:
            raise MemoryError

    monkeypatch.setattr("strzoo.sparse.layers.STRLayer.init_sparsity", fail)
    with pytest.raises(MemoryError):
        strzoo.sparsify_(model)
    with torch.no_grad():
        assert torch.equal(model(IMAGES), expected)
    assert list(model.state_dict()) == keys
    model(IMAGES).sum().backward()


def test_a_network_without_layers_has_zero_totals() -> None:
    made = strzoo.report(nn.ReLU(), input_size=SIZE)
    assert (made.sparsity, made.weights, made.sparse_macs) == (0.0, 0, 0)
    assert made.notes == ("the network has no convolution or linear layer",)


def test_an_exported_program_is_refused_in_words() -> None:
    images = torch.randn(2, 3)
    program = torch.export.export(nn.Linear(3, 2), (images,)).module()
    for call in (
        lambda: strzoo.report(program, input_size=(3,)),
        lambda: strzoo.evaluate(program, [(images, torch.tensor([0, 1]))]),
    ):
        with pytest.raises(UsageError, match="is an exported program"):
            call()


@pytest.mark.filterwarnings(
    "ignore"
)  # that TorchScript and eager quantisation are on their way out
@pytest.mark.parametrize(
    ("hide", "said"),
    [
        (lambda net: torch.jit.trace(net, IMAGES), "is TorchScript, whose layers are hidden"),
        (torch.jit.script, "is TorchScript, whose layers are hidden"),
        (
            lambda net: torch.ao.quantization.quantize_dynamic(net, {nn.Linear}),
            r"fc \(Linear\) is quantised, its weights are packed",
        ),
    ],
    ids=["traced", "scripted", "quantised"],
)
def test_layers_that_hide_their_weights_are_named_where_weights_are_needed(
    hide: Callable[[nn.Module], nn.Module], said: str, tmp_path: Path
) -> None:
    model = hide(make())
    for use in (
        lambda: strzoo.report(model, input_size=SIZE),
        lambda: strzoo.sparsify_(model),
        lambda: strzoo.export_onnx(model, tmp_path / "a.onnx", input_size=SIZE),
        lambda: strzoo.compile(model, size=16, cache=False),
        lambda: strzoo.export_matrices(model, tmp_path / "a"),
        lambda: strzoo.save_checkpoint(model, tmp_path / "a.pth"),
        lambda: strzoo.build_checkpoint(model),
        lambda: strzoo.benchmark(model, engines=["torch"], input_size=SIZE),
    ):
        with pytest.raises(UsageError, match=said):
            use()
    assert list(tmp_path.iterdir()) == []
    assert strzoo.evaluate(model, [(IMAGES, torch.tensor([0, 1]))]).images == 2
