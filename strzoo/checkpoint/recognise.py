"""What network a state dict belongs to, and whether it is complete, well-shaped and finite."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from strzoo.errors import IntegrityError, UsageError, one_line
from strzoo.models.architecture import Architecture
from strzoo.models.external import check_options
from strzoo.models.external_names import is_external, runs_code
from strzoo.models.heads import SOURCE
from strzoo.models.registry import known_architectures, list_architectures
from strzoo.models.spec import ModelSpec
from strzoo.sparse.layers import STRLayer, soft_threshold
from strzoo.sparse.selection import prunable_layers

log = logging.getLogger(__name__)

THRESHOLD = ".sparseThreshold"
# Networks that people take for MobileNetV1, by keys that only they have.
_NAMESAKES = {
    "torchvision's MobileNetV2": ("features.1.conv.0.0.weight", "classifier.1.weight"),
    "torchvision's MobileNetV3": ("features.1.block.0.0.weight", "classifier.3.weight"),
    "timm's MobileNetV2 or a later one": ("conv_stem.weight", "conv_head.weight"),
}


class UnknownKeysError(IntegrityError):
    """The keys of a state dict are of no known architecture. Exit code 4."""


def infer_spec(state: Mapping[str, Tensor], declared: Any = None, arch: Any = None) -> ModelSpec:
    """The network a clean state dict belongs to, from its keys and shapes.

    Args:
        state: plain keys in our layout; the classifier may be another library's.
        declared: the `strzoo` entry of files that we wrote; it adds what shapes cannot tell
            (a small-image stem of MobileNetV1).
        arch: the file's `arch` field, which decides between architectures with equal keys.

    Raises:
        UnknownKeysError: the keys are of no known architecture.
        IntegrityError: they are, and something is wrong with its classifier.
    """
    options = dict(declared) if isinstance(declared, Mapping) else {}
    known = list(known_architectures().values())
    nearest = ""
    named = [record for record in known if is_name_of(arch, record)]
    for record in [*named, *(record for record in known if record not in named)]:
        found = record.recognise(state, options)
        if found is None:
            continue
        present, expected = _count_entries(state, record, found)
        if 2 * present < expected:  # a few names in common make no such network
            nearest = f" ({present} of {record.name}'s {expected} entries are among them)"
            continue
        head, bias = state.get(f"{record.head}.weight"), state.get(f"{record.head}.bias")
        classes = len(head) if head is not None and head.dim() in (2, 4) else None
        if head is None or classes is None:
            raise IntegrityError(
                f"the keys are {record.name}'s, but there is no usable {record.head}.weight"
            )
        if "head_bias" in record.options:
            # Libraries with a linear classifier always store a bias, ours none: zeros are no bias.
            found["head_bias"] = bias is not None and (head.dim() == 4 or bool(bias.any()))
        if classes < 1:
            raise IntegrityError(f"{record.head}.weight has shape {tuple(head.shape)}: no classes")
        return ModelSpec(record.name, classes, found)
    for name, marks in _NAMESAKES.items():
        if all(mark in state for mark in marks):
            raise UnknownKeysError(
                f"the keys are those of {name}, which is not in the zoo (its mobilenetv1 is "
                "another network); strzoo.register_architecture adds your own"
            )
    raise UnknownKeysError(
        f"the keys are of no known architecture{nearest}; the first is "
        f"{next(iter(state), None)!r}; known are {', '.join(list_architectures())}; name the code "
        "of your own network by --architecture package.module:function (architecture= from "
        "Python); strzoo.register_architecture adds your own"
    )


def stated_spec(own: Any, named: str | None) -> ModelSpec | None:
    """The network from elsewhere that a file states, or that the user says it is of; None if
    neither does, so that keys and shapes have to tell. Its code is not run here.

    Args:
        own: the `strzoo` entry of a file that we wrote.
        named: the architecture that the user names.

    Raises:
        IntegrityError: the file states code that the user does not name, or nonsense; or it
            states one network, and the user another.
    """
    stated = own.get("architecture") if isinstance(own, Mapping) else None
    if not isinstance(stated, str) or not is_external(stated):
        return ModelSpec(named, 0) if named and is_external(named) and not stated else None
    options, classes = own.get("options", {}), own.get("num_classes")
    if not isinstance(options, Mapping) or type(classes) is not int or classes < 1:
        raise IntegrityError(f"what it says of {one_line(stated, 80)!r} is no network")
    if named and named != stated:
        raise IntegrityError(f"it holds a {one_line(stated, 80)}, not a {named}")
    if runs_code(stated) and named != stated:
        raise IntegrityError(
            f"it names the code {one_line(stated, 80)} as its network, which runs only if you name "
            f"it as well: --architecture {one_line(stated, 80)} (from Python, give what "
            f"strzoo.load(file, architecture={one_line(stated, 80)!r}) returns)"
        )
    try:
        check_options(options, stated, foreign=not runs_code(stated))
        spec = ModelSpec(stated, classes, dict(options))
        spec.shapes()
    except UsageError as error:
        raise IntegrityError(f"its network cannot be built: {error}") from error
    return spec


def is_mostly(state: Mapping[str, Tensor], spec: ModelSpec) -> bool:
    """Whether at least half of the entries of that network are in `state`."""
    expected = spec.shapes()
    return 2 * sum(key in state for key in expected) >= len(expected)


def fit_classes(state: Mapping[str, Tensor], spec: ModelSpec) -> ModelSpec:
    """`spec` with as many classes as the classifier in `state` has outputs.

    Raises:
        IntegrityError: there is no such classifier.
    """
    key = f"{spec.head}.weight"
    if key not in state or not state[key].dim():
        raise IntegrityError(f"not a {spec.architecture}: missing: {key}, its classifier")
    return replace(spec, num_classes=len(state[key]))


def is_known(state: Mapping[str, Tensor]) -> bool:
    """Whether plain keys in our layout are, as far as they go, those of a network of the zoo."""
    for record in known_architectures().values():
        if (found := record.recognise(state, {})) is not None:
            present, expected = _count_entries(state, record, found)
            if 2 * present >= expected:
                return True
    return False


def _count_entries(
    state: Mapping[str, Tensor], record: Architecture, options: Mapping[str, Any]
) -> tuple[int, int]:
    """How many entries of that network `state` has, and how many there are."""
    expected = ModelSpec(record.name, 1, options).shapes()
    return sum(key in state for key in expected), len(expected)


def is_name_of(arch: Any, record: Architecture) -> bool:
    """Whether an `arch` field or a request means that architecture."""
    return str(arch).lower() in (record.name, record.published.lower())


def declare(model: nn.Module) -> dict[str, Any]:
    """What the shapes of a network's weights cannot tell: options that are attributes of it, or the
    source of a network from elsewhere, and under `dense_layers` those without a threshold in an STR
    network."""
    source = getattr(model, SOURCE, None)
    names = {name for record in known_architectures().values() for name in record.options}
    found = {name: getattr(model, name) for name in sorted(names) if hasattr(model, name)}
    plain = {name: value for name, value in found.items() if isinstance(value, int | float | str)}
    plain = dict(source) if isinstance(source, dict) else plain
    layers = prunable_layers(model)
    dense = [name for name, layer in layers.items() if not isinstance(layer, STRLayer)]
    blocks = [layer.block for layer in layers.values() if isinstance(layer, STRLayer)]
    return {
        **plain,
        "dense_layers": dense if len(dense) < len(layers) else [],
        **({"block": blocks[0]} if blocks and blocks[0] > 1 else {}),
    }


def drop_thresholded_copies(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` without the thresholded weights that an old implementation stored as well.

    The rule: an entry `<layer>.<name>` beside `<layer>.weight` and `<layer>.sparseThreshold`
    is such a copy if it has the weight's shape and is either named `sparseWeight` or equal to
    the thresholded weight. Everything else stays and is judged by `check_state`.
    """
    result = dict(state)
    for key, value in state.items():
        layer, _, leaf = key.rpartition(".")
        weight, threshold = state.get(f"{layer}.weight"), state.get(layer + THRESHOLD)
        if leaf in ("weight", "sparseThreshold", "bias") or weight is None or threshold is None:
            continue
        if value.shape != weight.shape:
            continue
        same = torch.allclose(value, soft_threshold(weight, threshold.sigmoid()), atol=1e-6)
        if leaf == "sparseWeight" and not same:
            # The weight and the threshold define the layer; the copy is only a by-product.
            log.warning("%s differs from its weight and threshold; the copy is dropped", key)
        if same or leaf == "sparseWeight":
            del result[key]
    return result


def check_state(
    state: Mapping[str, Tensor], spec: ModelSpec, dense_layers: Collection[str] = ()
) -> None:
    """Raise an IntegrityError unless `state` has exactly the entries of the network, all finite.

    The message names the first missing, unexpected or misshapen key and counts the others.

    Args:
        state: plain keys in our layout.
        spec: the network.
        dense_layers: those that have no threshold although others have.
    """
    expected = spec.shapes()
    thresholds = {key for key in state if key.endswith(THRESHOLD)}
    layers, types = spec.layers(), spec.dtypes()
    wanted = set(expected)
    if thresholds:
        wanted |= {
            layer + THRESHOLD
            for layer in layers
            # The original code can leave the first and the last layer dense without saying so.
            if layer not in (layers[0], layers[-1], *dense_layers)
            or layer + THRESHOLD in thresholds
        }
        for name, layer in spec.aliases().items():
            if layer + THRESHOLD in wanted:
                wanted.add(name + THRESHOLD)
    missing = [key for key in _ordered(wanted, expected) if key not in state]
    unexpected = [key for key in state if key not in wanted]
    problems = [_first("missing", missing), _first("unexpected", unexpected)]
    misshapen = [
        f"{key} has shape {tuple(value.shape)}, expected {_spell(shapes)}"
        for key, value in state.items()
        if key in wanted and tuple(value.shape) not in (shapes := _shapes(key, expected))
    ]
    problems.append(_first("misshapen", misshapen))
    mistyped = [
        f"{key} holds {value.dtype}, expected {wanted_type}"
        for key, value in state.items()
        if key in wanted and value.dtype != (wanted_type := types.get(key, torch.float32))
    ]
    problems.append(_first("mistyped", mistyped))
    if found := [problem for problem in problems if problem]:
        raise IntegrityError(f"not a complete {spec.architecture}: {'; '.join(found)}")
    for key, value in state.items():
        if not all_finite(value):
            raise IntegrityError(f"{key} has a value that is not finite (NaN or infinity)")


def all_finite(value: Tensor) -> bool:
    """No NaN and no infinity in `value`."""
    if not value.is_floating_point():
        return True
    # A finite sum proves it in one pass without a temporary; only an overflow needs a closer look.
    return bool(torch.isfinite(value.sum())) or bool(torch.isfinite(value).all())


def _shapes(key: str, expected: Mapping[str, tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The shapes that entry may have; a threshold is per layer, per filter or per weight."""
    if not key.endswith(THRESHOLD):
        return [expected[key]]
    weight = expected[key.removesuffix(THRESHOLD) + ".weight"]
    return [(1, 1), (weight[0], *[1] * (len(weight) - 1)), weight]


def _ordered(keys: set[str], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    return [key for key in expected if key in keys] + sorted(keys - set(expected))


def _first(what: str, keys: list[str]) -> str:
    more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
    return f"{what}: {keys[0]}{more}" if keys else ""


def _spell(shapes: list[tuple[int, ...]]) -> str:
    return " or ".join(str(shape) for shape in shapes)
