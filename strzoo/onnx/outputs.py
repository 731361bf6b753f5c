"""Which output of an ONNX network is its answer, and what its numbers are.

Files of other frameworks have several outputs (probabilities beside an ArgMax, auxiliary heads,
features), end in a Softmax of their own, or have a background class before or behind ImageNet's
thousand. It is told by type, rank, number of classes and graph, and said with its reason. Imports
no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from strzoo.errors import UsageError
from strzoo.onnx.tensors import decode_tensor, spell_kind
from strzoo.onnx.weights import WeightedNode, weighted_nodes

FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)
SOFTMAX, SIGMOID, LOG_SOFTMAX = "softmax", "sigmoid", "log-softmax"
FIRST, LAST = "first", "last"
_ACTIVATIONS = {"Softmax": SOFTMAX, "Sigmoid": SIGMOID, "LogSoftmax": LOG_SOFTMAX}
# They keep the numbers, in order: an answer is recognised through them.
_THROUGH = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Dropout")
# They choose some of the numbers: what they give are scores of no class in particular.
_CHOOSING = ("TopK", "ArgMax", "ArgMin", "NonMaxSuppression", "Unique")
_QUANTISING = ("QuantizeLinear", "DequantizeLinear")
_IMAGENET = (1000, 1001)  # with a background class
_BACKGROUND_NAMES = ("background", "__background__", "dummy", "none", "unlabeled", "/m/background")
_MARGIN = 2.0  # standard deviations between the two rows of weights, to tell a background class
_MOST_SHOWN = 12


@dataclass(frozen=True)
class OutputChoice:
    """The output that answers.

    Attributes:
        name, index: of the output, as onnxruntime counts them.
        classes: how many it has; None if the file leaves it open.
        activation: "softmax", "sigmoid" or "log-softmax" if the graph ends in it, else None.
        reason: why this one, for people.
        count: of the outputs.
    """

    name: str
    index: int
    classes: int | None
    activation: str | None
    reason: str
    count: int = 1


@dataclass(frozen=True)
class _Candidate:
    index: int
    name: str
    classes: int | None
    activation: str | None
    is_map: bool = False  # several open axes: a map, unless they turn out to be 1


def choose_output(
    model: onnx.ModelProto, classes: int | None = None, name: str | None = None
) -> OutputChoice:
    """The output of `model` that holds logits or probabilities.

    Candidates are floats of shape [N, classes], axes of 1 aside; integers (an ArgMax) never are. Of
    several, those with `classes` classes (or one more, a background class) are kept; logits win
    over their own Softmax, what is computed last over what it is computed from, the main head
    over those called auxiliary, and 1000 or 1001 classes over other numbers.

    Args:
        model: with functions inlined (`strzoo.onnx.files.read_onnx`).
        classes: how many there should be, if that is known.
        name: the output asked for by the user (`--output`).

    Raises:
        UsageError: no output can hold classes, several are equally plausible (they are listed),
            or there is none of that name.
    """
    outputs = list(model.graph.output)
    listed = _list(model)
    if name is not None:
        index = next((i for i, value in enumerate(outputs) if value.name == name), None)
        if index is None:
            raise UsageError(f"there is no output {name!r}; the outputs are {listed}")
        found = _candidate(model, index)
        if found is None:
            raise UsageError(
                f"output {name!r} does not hold classes (floats, [N, classes]); the outputs are "
                f"{listed}"
            )
        return _chosen(found, "asked for", len(outputs))
    candidates = [c for i in range(len(outputs)) if (c := _candidate(model, i)) is not None]
    candidates = [c for c in candidates if not c.is_map] or candidates
    if not candidates:
        raise UsageError(
            f"no output holds classes (floats, [N, classes]); the outputs are {listed}"
        )
    if len(outputs) == 1:
        return _chosen(candidates[0], "the only output")
    reason = "the only output of floats, [N, classes]"
    if len(candidates) > 1 and classes is not None:
        exact = [c for c in candidates if c.classes == classes]
        near = [c for c in candidates if c.classes in (classes + 1, None)]
        candidates = exact or near or candidates
        reason = f"the only one with {classes} classes"
    if len(candidates) > 1:
        candidates, reason = _narrow(model, candidates)
    if len(candidates) > 1:
        raise UsageError(
            f"{len(candidates)} outputs may hold the answer ({_names(candidates)}); choose one "
            f"with --output: the outputs are {listed}"
        )
    return _chosen(candidates[0], reason, len(outputs))


def keep_output(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A copy of `model` with that output alone; nodes that only others need stay."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    kept = [value for value in model.graph.output if value.name == name]
    del made.graph.output[:]
    made.graph.output.extend(kept)
    return made


def _chosen(candidate: _Candidate, reason: str, count: int = 1) -> OutputChoice:
    c = candidate
    return OutputChoice(c.name, c.index, c.classes, c.activation, reason, count)


def _names(candidates: Sequence[_Candidate]) -> str:
    return ", ".join(c.name[:60] for c in candidates[:_MOST_SHOWN])


def _list(model: onnx.ModelProto) -> str:
    """All outputs with type and shape, for messages."""
    shown = []
    for value in list(model.graph.output)[:_MOST_SHOWN]:
        tensor = value.type.tensor_type
        kind = spell_kind(tensor.elem_type, f"the output {value.name[:60]!r}")
        dims = [str(d.dim_value or d.dim_param[:20] or "?") for d in tensor.shape.dim]
        shown.append(f"{value.name[:60]} ({kind} [{', '.join(dims)}])")
    left = len(model.graph.output) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")


def _candidate(model: onnx.ModelProto, index: int) -> _Candidate | None:
    """The output if it can hold classes: floats, one axis of them beside the batch's; the best of
    a TopK are none."""
    value = model.graph.output[index]
    tensor = value.type.tensor_type
    if tensor.elem_type not in FLOATS:
        return None
    makers = {name: node for node in model.graph.node for name in node.output}
    maker = makers.get(_plain(value.name, makers))
    if maker is not None and maker.op_type in _CHOOSING:
        return None
    activation = find_activation(model, value.name)
    if not tensor.HasField("shape"):
        return _Candidate(index, value.name, None, activation)
    dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    if not 2 <= len(dims) <= 4:
        return None
    rest = [d for d in dims[1:] if d != 1]
    known = [d for d in rest if d is not None]
    if not rest or 0 in known or len(known) > 1:
        return None
    found = known[0] if known else None
    return _Candidate(index, value.name, found, activation, is_map=len(rest) > 1)


def _narrow(
    model: onnx.ModelProto, candidates: Sequence[_Candidate]
) -> tuple[list[_Candidate], str]:
    """The candidates that remain, and why."""
    kept = list(candidates)
    makers = {name: node for node in model.graph.node for name in node.output}
    sources = {_strip_activation(c.name, makers) for c in kept if c.activation}
    if logits := [c for c in kept if c.activation is None and _plain(c.name, makers) in sources]:
        paired = {_plain(c.name, makers) for c in logits}
        kept = [c for c in kept if not c.activation
                or _strip_activation(c.name, makers) not in paired]  # fmt: skip
        if len(kept) == 1:
            return kept, "the logits of the other output's Softmax"
    for candidate in list(kept):
        others = [c for c in kept if c is not candidate]
        if any(_depends(other.name, candidate.name, makers) for other in others):
            kept.remove(candidate)
    if len(kept) == 1:
        return kept, "the last in the graph of those that may hold classes"
    main = [c for c in kept if "aux" not in c.name.lower()]
    if len(main) == 1:
        return main, "the only one that is not called auxiliary"
    imagenet = [c for c in main or kept if c.classes in _IMAGENET]
    if len(imagenet) == 1:
        return imagenet, f"the only one with {imagenet[0].classes} classes"
    return main or kept, ""


Makers = dict[str, onnx.NodeProto]


def _plain(name: str, makers: Makers) -> str:
    """The tensor behind `name`, through what keeps its numbers."""
    for _ in range(len(makers) + 1):
        node = makers.get(name)
        if node is None or not node.input or node.op_type not in _THROUGH + _QUANTISING:
            return name
        name = node.input[0]
    return name


def _strip_activation(name: str, makers: Makers) -> str:
    """The logits behind the output `name` that ends in an activation."""
    node = makers.get(_plain(name, makers))
    return _plain(node.input[0], makers) if node is not None and node.input else name


def _depends(name: str, on: str, makers: Makers) -> bool:
    """Whether the tensor `name` is computed from the tensor `on`."""
    waiting, seen = [name], set()
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if on in node.input:
            return True
        waiting += node.input
    return False


def find_activation(model: onnx.ModelProto, output: str) -> str | None:
    """The activation that an output ends in: "softmax", "sigmoid", "log-softmax" or None.

    It is looked for through Reshape, Squeeze, Flatten, Identity, Cast and quantisation. A Softmax
    over other axes than the classes' does not count.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers.get(_plain(output, makers))
    if node is None or node.op_type not in _ACTIVATIONS or node.domain not in ("", "ai.onnx"):
        return None
    axis = next((a.i for a in node.attribute if a.name == "axis"), None)
    if axis == 0:
        return None
    return _ACTIVATIONS[node.op_type]


def find_background(
    model: onnx.ModelProto, count: int, class_names: Sequence[str] = ()
) -> tuple[str, str]:
    """Where the background class of `count` classes (1001, say) is: "first" or "last", and why.

    By its name if the names are known; else by the weights of the last layer: no image was ever
    labelled with it, so that training pushed its bias and weights far below those of the others.
    If that does not tell, first, as TensorFlow's networks have it.
    """
    names = [str(name).strip().lower() for name in class_names]
    if len(names) == count:
        for position, index in ((FIRST, 0), (LAST, -1)):
            if names[index] in _BACKGROUND_NAMES:
                return position, f"class {position} is called {class_names[index]!r}"
    scores = _background_scores(model, count)
    if scores is not None and abs(scores[0] - scores[1]) > _MARGIN:
        position = FIRST if scores[0] < scores[1] else LAST
        return position, f"by the weights, the {position} class was never trained for"
    return FIRST, "first, as TensorFlow's networks have it"


def _background_scores(model: onnx.ModelProto, count: int) -> tuple[float, float] | None:
    """How far the first and the last row of the last layer lie from the others, in standard
    deviations, bias and mean weight together; negative is below."""
    layer = next((n for n in reversed(list(weighted_nodes(model))) if _rows(n, count) is not None),
                 None)  # fmt: skip
    if layer is None:
        return None
    weight = _rows(layer, count)
    assert weight is not None
    parts = [weight.mean(axis=1)]
    bias = _bias(model, layer, count)
    if bias is not None:
        parts.append(bias)
    scores = np.zeros(count)
    for part in parts:
        inner = part[1:-1]
        spread = max(float(inner.std()), float(np.abs(inner).max(initial=0.0)) * 1e-6, 1e-12)
        scores += np.clip((part - inner.mean()) / spread, -1e6, 1e6)
    return (float(scores[0]), float(scores[-1])) if np.isfinite(scores).all() else None


def _rows(layer: WeightedNode, count: int) -> np.ndarray | None:
    """The weight of a layer as [classes, inputs], if it has that many outputs."""
    weight = np.asarray(layer.weight, dtype=np.float64)
    if layer.type in ("Conv", "QLinearConv", "FusedConv") and len(weight) == count:
        return weight.reshape(count, math.prod(weight.shape[1:]))
    if weight.ndim != 2:
        return None
    transposed = next((a.i for a in layer.node.attribute if a.name == "transB"), 0)
    rows = weight if transposed else weight.T
    return rows if len(rows) == count else None


def _bias(model: onnx.ModelProto, layer: WeightedNode, count: int) -> np.ndarray | None:
    """The bias of a layer: its third input, or what is added to its output."""
    tensors = {t.name: t for t in model.graph.initializer if math.prod(t.dims) == count}
    names = list(layer.node.input[2:3])
    for node in model.graph.node:
        if node.op_type == "Add" and layer.node.output[0] in node.input:
            names += [name for name in node.input if name != layer.node.output[0]]
    for name in names:
        if name in tensors:
            return decode_tensor(tensors[name]).astype(np.float64).reshape(-1)
    return None
