"""torch.compile(network, backend="strzoo"): the graphs that torch captures, on the sparse engine.

Torch hands over a graph, its weights among the inputs of each call. A graph of one batch of images
in and one tensor out is exported with its weights when it is first called, compiled, and compared
with torch on the inputs of that call. What cannot be compiled, or does not agree, runs in torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor, fx, nn

from strzoo.borders import shorten_cause
from strzoo.engine.compile import compile
from strzoo.engine.runtime.model import SparseModel
from strzoo.errors import StrzooError, UsageError
from strzoo.onnx.graphs import Deployed, build_graph

NAME = "strzoo"
# Of `strzoo.compile`, in torch.compile(..., options={...}).
OPTIONS = ("threads", "lanes", "tune", "precision", "calibration", "tolerance", "cache", "settings")
_MOST_VARIANTS = 8  # of one graph: sizes of images, sets of weights
_AGREEMENT = {"fp32": 1e-3, "int16": 0.2, "int8": 0.2}  # largest difference / largest output
_STATIC = "_dynamo_static_input_type"  # how torch marks weights among a graph's inputs
# Functions that compute otherwise in training, and where they are told so.
_TRAINING = {nn.functional.batch_norm: 5, nn.functional.dropout: 2}
log = logging.getLogger(__name__)


def register_backend() -> None:
    """Make `torch.compile(network, backend="strzoo")` known to torch.

    An installed strzoo is found by torch without it (entry point `torch_dynamo_backends`).
    """
    from torch._dynamo import list_backends, register_backend

    if NAME not in list_backends():
        register_backend(compile_graph, name=NAME)


def compile_graph(
    graph: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """A graph of torch's as a function that runs on the sparse engine where that is possible.

    Args:
        graph: what torch captured.
        example_inputs: of the call that it was captured in, weights included.
        options: keywords of `strzoo.compile`: `OPTIONS`.
        mode: of torch.compile; it has no meaning here.

    Raises:
        UsageError: there is no such option.
    """
    options = dict(options or {})
    if unknown := [name for name in options if name not in OPTIONS]:
        raise UsageError(f"there is no option {unknown[0]!r}; there are {', '.join(OPTIONS)}")
    return CompiledGraph(graph, options)


class CompiledGraph:
    """A captured graph, called as torch calls it.

    Args:
        graph: what torch captured.
        options: keywords of `strzoo.compile`.
    """

    def __init__(self, graph: fx.GraphModule, options: dict[str, Any]) -> None:
        self._graph, self._options = graph, options
        self._inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
        self._weights = [i for i, node in enumerate(self._inputs) if _is_weight(node)]
        tensors = [i for i, node in enumerate(self._inputs) if isinstance(_example(node), Tensor)]
        self._images = [i for i in tensors if i not in self._weights]
        self._trains = any(map(_trains, graph.graph.nodes))
        self._variants: list[_Variant] = []

    @property
    def models(self) -> list[SparseModel]:
        """What was compiled of it, the latest first; empty where all of it runs in torch."""
        return [variant.model for variant in self._variants if variant.model is not None]

    def __call__(self, *given: Any) -> Any:
        """The graph's outputs.

        Raises:
            UsageError: gradients are wanted, the network is in training mode, or something is on
                another device than the CPU.
        """
        if torch.is_grad_enabled():
            self._refuse_gradients(given)
        weights = [given[place] for place in self._weights]
        images: Any = given[self._images[0]] if len(self._images) == 1 else None
        for variant in self._variants:
            if variant.fits(images, weights):
                break
        else:
            return self._run_first(given, images, weights)
        if variant.model is None:
            return self._graph.forward(*given)
        return (variant.model(images),)

    def _refuse_gradients(self, given: Sequence[Any]) -> None:
        if any(isinstance(value, Tensor) and value.requires_grad for value in given):
            raise UsageError(
                'backend="strzoo" is for inference and computes no gradients; call the network '
                "under torch.inference_mode() or torch.no_grad(), or freeze it with "
                "network.requires_grad_(False)"
            )

    def _run_first(self, given: Sequence[Any], images: Tensor | None, weights: list[Any]) -> Any:
        """Run in torch, compile, and keep what was compiled if it agrees."""
        if self._trains:
            raise UsageError(
                'backend="strzoo" is for inference and the network is in training mode; call '
                "network.eval()"
            )
        for value in given:
            if isinstance(value, Tensor) and value.device.type != "cpu":
                raise UsageError(
                    f'backend="strzoo" runs on the CPU and the network gets tensors on '
                    f"{value.device}; move network and images with .cpu()"
                )
        before = _read_versions(given)
        expected = self._graph.forward(*given)
        model = None
        try:
            if _read_versions(given) != before:
                raise UsageError("it changes its inputs")
            if images is None or images.numel():
                model = self._compile(given, images)
                self._compare(model, images, expected)
        except StrzooError as error:
            model = None
            nodes = sum(node.op.startswith("call") for node in self._graph.graph.nodes)
            log.warning("a graph of %d operations runs in torch: %s", nodes, error)
        except _Undecided:
            return expected
        self._variants.insert(0, _Variant(images, weights, model))
        del self._variants[_MOST_VARIANTS:]
        return expected

    def _compile(self, given: Sequence[Any], images: Tensor | None) -> SparseModel:
        outputs = next(n for n in self._graph.graph.nodes if n.op == "output").args[0]
        if images is None or len(outputs) != 1:
            raise UsageError(
                f"it has {len(self._images)} inputs and {len(outputs)} outputs, not one of each"
            )
        floats = [given[place] for place in (*self._weights, *self._images)]
        if images.ndim != 4 or any(t.dtype == torch.float64 for t in floats if t.ndim):
            raise UsageError(f"its input is {images.dtype} {list(images.shape)}, not fp32 images")
        try:
            network, batch = self._bind(given, images)
            channels, height, width = images.shape[1:]
            proto = build_graph(_Plain(network), (channels, height, width), batch=batch)
        except StrzooError:
            raise
        except Exception as error:  # whatever torch's exporter makes of the graph
            raise UsageError(f"it cannot be exported ({shorten_cause(error)})") from error
        model = compile(proto, batch=len(images), **self._options)
        if model.report.parts and all(part.engine != NAME for part in model.report.parts):
            raise UsageError("nothing of it would be faster on the engine")
        return model

    def _bind(self, given: Sequence[Any], images: Tensor) -> tuple[nn.Module, int | None]:
        """The graph as a network of images alone, and its batch, None if that is open.

        Sizes that torch passes as numbers become the images' own: the batch read from them, height
        and width as numbers.
        """
        graph = fx.Graph()
        root = nn.Module()
        values: dict[fx.Node, Any] = {}
        (place,) = self._images
        source = self._inputs[place]
        image = values[source] = graph.placeholder("images")
        batch: int | None = len(images)
        for index, node in enumerate(self._inputs):
            if index in self._weights:
                root.register_buffer(f"weight{index}", given[index].detach())
                values[node] = graph.get_attr(f"weight{index}")
            elif node is not source:
                if _symbol(_example(node)) == _symbol(_example(source).shape[0]):
                    batch, values[node] = None, graph.call_method("size", (image, 0))
                else:
                    values[node] = given[index]
        for node in self._graph.graph.nodes:
            if node.op == "output":
                (made,) = node.args[0]
                graph.output(values[made])
            elif node.op == "get_attr":
                name = f"constant{len(values)}"
                value = _read_attribute(self._graph, str(node.target))
                setattr(root, name, value)
                values[node] = graph.get_attr(name)
            elif node not in values:
                values[node] = graph.node_copy(node, lambda one: values[one])
        return fx.GraphModule(root, graph).eval(), batch

    def _compare(self, model: SparseModel, images: Tensor | None, expected: Any) -> None:
        (wanted,) = expected
        assert images is not None
        if not bool(torch.isfinite(wanted).all()):
            raise _Undecided  # these inputs show nothing
        found = model(images)
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise UsageError(
                f"its output is {wanted.dtype} {list(wanted.shape)}, the engine's is "
                f"{found.dtype} {list(found.shape)}"
            )
        scale = float(wanted.abs().max()) or 1.0
        error = float((found - wanted).abs().max()) / scale
        if not error <= _AGREEMENT[self._options.get("precision", "fp32")]:
            raise UsageError(f"the engine's output differs by {error:.1g} of the largest")


class _Undecided(Exception):  # noqa: N818
    """The inputs of this call do not show whether the outputs agree."""


class _Plain(Deployed):
    """A network whose output is taken as it is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, softmax=False, preprocessing=None)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.network(images)
        return result


class _Variant:
    """A graph compiled for a size of images and one set of weights; `model` is None where it runs
    in torch. Weights are told apart by themselves, where they lie, and how often they changed."""

    def __init__(
        self, images: Tensor | None, weights: Sequence[Tensor], model: SparseModel | None
    ) -> None:
        self.model = model
        self._shape = None if images is None else images.shape[1:]
        self._weights = list(weights)
        self._tracked = [weight for weight in weights if not weight.is_inference()]
        self._state = self._read()

    def _read(self) -> list[int]:
        found = [weight._version for weight in self._tracked]
        return found + list(map(Tensor.data_ptr, self._weights))

    def fits(self, images: Tensor | None, weights: Sequence[Tensor]) -> bool:
        if images is not None and images.shape[1:] != self._shape:
            return False
        return all(map(is_, weights, self._weights)) and self._read() == self._state


def _example(node: fx.Node) -> Any:
    return node.meta.get("example_value")


def _is_weight(node: fx.Node) -> bool:
    return isinstance(_example(node), nn.Parameter) or _STATIC in node.meta.get("tensor_dict", {})


def _trains(node: fx.Node) -> bool:
    def argument(place: int, name: str, default: Any) -> Any:
        return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)

    place = _TRAINING.get(node.target)  # type: ignore[arg-type]
    if place is None:
        return False
    if node.target is nn.functional.batch_norm and argument(1, "running_mean", None) is None:
        return False  # it takes the statistics of what it is given in any mode, such as of weights
    return bool(argument(place, "training", node.target is nn.functional.dropout))


def _symbol(size: Any) -> Any:
    """What tells an open size from others; None for a plain number."""
    return size.node.expr if isinstance(size, torch.SymInt) else None


def _read_versions(given: Sequence[Any]) -> list[int]:
    return [t._version for t in given if isinstance(t, Tensor) and not t.is_inference()]


def _read_attribute(root: nn.Module, name: str) -> Any:
    value: Any = root
    for part in name.split("."):
        value = getattr(value, part)
    return value
