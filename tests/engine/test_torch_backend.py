"""torch.compile(network, backend="strzoo") gives what the network gives, whoever runs its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import strzoo
from strzoo.engine.hardware import host_hardware
from strzoo.engine.torch_backend import CompiledGraph, compile_graph
from strzoo.errors import UsageError
from strzoo.settings import Settings
from tests.helpers.engine.networks import relative_error

Compile = Callable[..., tuple[Any, list[CompiledGraph]]]


@pytest.fixture
def compiled(shared: Settings) -> Iterator[Compile]:
    """Compiles a network; the graphs that torch makes of it appear in the list."""

    def compile(network: Any, **options: Any) -> tuple[Any, list[CompiledGraph]]:
        graphs: list[CompiledGraph] = []

        def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
            options_ = {"settings": shared, "threads": 1, **options}
            made = compile_graph(graph, inputs, options=options_)
            assert isinstance(made, CompiledGraph)
            graphs.append(made)
            return made

        return torch.compile(network, backend=backend), graphs

    torch._dynamo.reset()
    yield compile
    torch._dynamo.reset()


def assert_same(run: Any, network: Any, x: Tensor) -> None:
    """Twice: the first call compares and compiles, the second runs what was compiled."""
    with torch.inference_mode():
        expected = network(x.clone()).numpy()
        for _ in range(2):
            assert relative_error(run(x.clone()).numpy(), expected) < 1e-4


def test_torch_finds_the_backend_by_its_name() -> None:
    strzoo.register_backend()
    strzoo.register_backend()
    assert torch._dynamo.lookup_backend("strzoo") is compile_graph
    setup = ConfigParser()
    setup.read(Path(__file__).parent.parent.parent / "setup.cfg")
    declared = setup["options.entry_points"]["torch_dynamo_backends"].strip()
    assert declared == "strzoo = strzoo.engine.torch_backend:compile_graph"
    module, name = declared.partition("= ")[2].split(":")
    assert getattr(import_module(module), name) is compile_graph


@pytest.mark.slow
def test_batches_and_sizes_are_open_and_changed_weights_are_compiled_again(
    compiled: Compile,
) -> None:
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
    ).eval()
    run, graphs = compiled(network)
    for shape in ((1, 3, 8, 8), (3, 3, 8, 8), (7, 3, 8, 8), (2, 3, 9, 7)):
        assert_same(run, network, torch.randn(shape))
    # One image, any number of them, images of any size.
    assert [len(graph.models) for graph in graphs] == [1, 1, 1]
    with torch.no_grad():
        network[0].weight.mul_(-2)
    assert_same(run, network, torch.randn(2, 3, 9, 7))
    network[0].weight.data = torch.randn(4, 3, 3, 3)
    assert_same(run, network, torch.randn(5, 3, 9, 7))
    assert sum(len(graph.models) for graph in graphs) == 5


class Broken(nn.Module):
    """Torch cannot capture the middle; the engine lacks the sort at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        torch._dynamo.graph_break()
        x = self.second(x).relu()
        torch._dynamo.graph_break()
        return x.flatten(1).sort(1).values


@pytest.mark.slow
def test_graphs_between_breaks_run_each_where_it_can(
    compiled: Compile, caplog: pytest.LogCaptureFixture
) -> None:
    network = Broken().eval()
    run, graphs = compiled(network)
    assert_same(run, network, torch.randn(2, 3, 9, 9))
    assert [bool(graph.models) for graph in graphs] == [True, True, False]
    (said,) = {record.message for record in caplog.records if "runs in torch" in record.message}
    assert said.startswith("a graph of 3 operations runs in torch: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "x"),
    [
        (lambda x: x.add_(1).relu(), torch.randn(1, 3, 4, 4)),  # it changes its input
        (lambda x: nn.functional.relu(x) + torch.rand(1), torch.randn(1, 3, 4, 4)),
        (lambda x: x.relu(), torch.randn(1, 3, 4, 4).double()),
        (lambda x: x.relu(), torch.randn(2, 3)),
        (lambda x: x.relu(), torch.randn(0, 3, 4, 4)),
    ],
    ids=["in place", "random", "double", "vectors", "no images"],
)
def test_what_the_engine_would_not_compute_the_same_runs_in_torch(
    function: Any, x: Tensor, compiled: Compile
) -> None:
    run, graphs = compiled(function)
    with torch.inference_mode():
        for _ in range(2):
            given, kept = x.clone(), x.clone()
            torch.manual_seed(0)
            found = run(given)
            torch.manual_seed(0)
            assert torch.equal(found, function(kept))
            assert torch.equal(given, kept)
    assert not graphs[0].models


class Standardised(nn.Conv2d):
    """Its weights are standardised by the function of BatchNorm, as in NFNets, in any mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = nn.functional.batch_norm(rows, None, None, training=True)
        return nn.functional.conv2d(x, weight.reshape_as(self.weight), self.bias)


def test_statistics_of_weights_are_no_training(compiled: Compile) -> None:
    network = nn.Sequential(Standardised(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    run, graphs = compiled(network)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = network(x)
        for _ in range(2):
            assert float((run(x) - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    assert graphs[0].models


def test_gradients_and_training_are_refused_with_what_to_do(compiled: Compile) -> None:
    run, _ = compiled(nn.Conv2d(3, 4, 3))
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(UsageError, match=r"computes no gradients; call .* torch.inference_mode"):
        run(x)
    training, _ = compiled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train())
    with torch.no_grad(), pytest.raises(UsageError, match=r"in training mode; call network.eval"):
        training(x)
    with pytest.raises(UsageError, match="there is no option 'thread'; there are threads, "):
        compile_graph(torch.fx.symbolic_trace(nn.ReLU()), [], options={"thread": 1})


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int16", "int8"])
def test_a_network_in_fewer_bits_is_near_what_torch_computes(
    precision: str, compiled: Compile
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    strzoo.to_dense_(strzoo.sparsify_(network, "gmp", prune_rate=0.5, block=4, skip=("0",)))
    images = torch.randn(12, 3, 16, 16)
    network.requires_grad_(False)
    run, graphs = compiled(network, precision=precision, calibration=images)
    x = images[:2]
    expected = network(x)
    run(x)  # torch's
    assert float((run(x) - expected).abs().max() / expected.abs().max()) < 0.2
    hardware = host_hardware()
    able = hardware.fixed if precision == "int16" else hardware.quads
    assert [len(graph.models) for graph in graphs] == [int(able)]


@pytest.mark.slow
def test_a_network_of_timm_gives_the_same(compiled: Compile) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=7).eval()
    run, graphs = compiled(network)
    assert_same(run, network, torch.randn(2, 3, 64, 64))
    assert [len(graph.models) for graph in graphs] == [1]
