"""What network a state dict belongs to, and whether it is complete, well-shaped and finite."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from strzoo.checkpoint.record import PUBLISHED_ARCH, THRESHOLD, ModelSpec
from strzoo.errors import IntegrityError
from strzoo.models.mobilenetv1 import MobileNetV1, infer_width
from strzoo.sparse.layers import soft_threshold

log = logging.getLogger(__name__)

# The first and last layers, which the original code can leave dense in an STR network.
_MAY_BE_DENSE = ("conv1", "model.0.0", "fc")


def infer_spec(state: Mapping[str, Tensor], declared: Any = None) -> ModelSpec:
    """The network a clean state dict belongs to, from its keys and shapes.

    Args:
        state: plain keys in our layout.
        declared: the `strzoo` entry of files that we wrote; it adds what shapes cannot tell
            (a small-image stem of MobileNetV1).

    Raises:
        IntegrityError: the keys are of no known architecture.
    """
    architecture = _architecture(state)
    fc = state.get("fc.weight")
    if architecture is None or fc is None or fc.dim() != 4:
        missing = "" if architecture is None else " (no usable fc.weight)"
        raise IntegrityError(
            f"the keys are of no known architecture{missing}; the first is "
            f"{next(iter(state))!r}; known are {', '.join(PUBLISHED_ARCH)}"
        )
    stem = state.get("conv1.weight")
    small = architecture in ("resnet18", "resnet50") and stem is not None and stem.shape[-1] == 3
    width = _mobilenet_width(state) if architecture == "mobilenetv1" else 1.0
    if isinstance(declared, Mapping) and architecture == "mobilenetv1":
        small = declared.get("small_stem") is True
    return ModelSpec(
        architecture,
        num_classes=fc.shape[0],
        head_bias="fc.bias" in state,
        small_stem=small,
        width=width,
    )


def _mobilenet_width(state: Mapping[str, Tensor]) -> float:
    convolutions = [state.get(f"model.{i}.{3 if i else 0}.weight") for i in range(14)]
    if any(weight is None for weight in convolutions):
        return 1.0  # incomplete; check_state will name what is missing
    return infer_width(weight.shape[0] for weight in convolutions if weight is not None)


def declare(model: nn.Module) -> dict[str, bool]:
    """What the shapes of a network's state dict cannot tell `infer_spec`."""
    if not isinstance(model, MobileNetV1):
        return {}
    stem = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    return {"small_stem": stem.stride == (1, 1)}


def _architecture(state: Mapping[str, Tensor]) -> str | None:
    if "model.0.0.weight" in state:
        return "mobilenetv1"
    if "conv1.weight" not in state:
        return None
    if any(key.startswith("layer4.") for key in state):
        return "resnet50" if "layer4.0.conv3.weight" in state else "resnet18"
    return "resnet20" if any(key.startswith("layer3.") for key in state) else None


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


def check_state(state: Mapping[str, Tensor], spec: ModelSpec) -> None:
    """Raise an IntegrityError unless `state` has exactly the entries of the network, all finite.

    The message names the first missing, unexpected or misshapen key and counts the others.
    """
    expected = spec.shapes()
    thresholds = {key for key in state if key.endswith(THRESHOLD)}
    layers = [k.removesuffix(".weight") for k, s in expected.items() if len(s) == 4]
    wanted = set(expected)
    if thresholds:
        wanted |= {
            layer + THRESHOLD
            for layer in layers
            if layer not in _MAY_BE_DENSE or layer + THRESHOLD in thresholds
        }
    missing = [key for key in _ordered(wanted, expected) if key not in state]
    unexpected = [key for key in state if key not in wanted]
    problems = [_first("missing", missing), _first("unexpected", unexpected)]
    misshapen = [
        f"{key} has shape {tuple(value.shape)}, expected {_spell(shapes)}"
        for key, value in state.items()
        if key in wanted and tuple(value.shape) not in (shapes := _shapes(key, expected))
    ]
    problems.append(_first("misshapen", misshapen))
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
    return [(1, 1), (weight[0], 1, 1, 1), weight]


def _ordered(keys: set[str], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    return [key for key in expected if key in keys] + sorted(keys - set(expected))


def _first(what: str, keys: list[str]) -> str:
    more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
    return f"{what}: {keys[0]}{more}" if keys else ""


def _spell(shapes: list[tuple[int, ...]]) -> str:
    return " or ".join(str(shape) for shape in shapes)
