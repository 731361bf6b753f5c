"""What an exported file says about itself: ONNX metadata properties, all text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from strzoo.data.imagenet_classes import list_classes
from strzoo.errors import UsageError
from strzoo.hub.targets import Target
from strzoo.version import VERSION

_IMAGENET = "imagenet-1k"


def find_class_names(target: Target, given: Sequence[str] | None) -> tuple[str, ...]:
    """The given names, else ImageNet's for a published ImageNet network, else none."""
    if given is not None:
        if isinstance(given, str) or not all(isinstance(name, str) for name in given):
            raise UsageError("class names are a sequence of texts, one per class")
        return tuple(given)
    card = target.card
    if card is None or card.num_classes != 1000 or card.dataset != _IMAGENET:
        return ()
    return tuple(c.name for c in list_classes())


def describe(
    target: Target,
    *,
    precision: str,
    sparsity: float,
    built_in: bool,
    softmax: bool,
    class_names: Sequence[str],
) -> dict[str, str]:
    """The metadata entries of an export. docs/onnx.md lists the keys."""
    steps = target.preprocessing
    _, height, width = target.input_size
    preprocessing: dict[str, Any] = {
        "resize": steps.resize,
        "crop": steps.crop,
        "interpolation": steps.interpolation,
        "input_height": height,
        "input_width": width,
        "mean": list(steps.mean),
        "std": list(steps.std),
        "built_in": built_in,
        "input": "uint8 NHWC, 0 to 255" if built_in else "float32 NCHW, normalised",
    }
    entries = {
        "strzoo.version": VERSION,
        "strzoo.model": target.name,
        "strzoo.architecture": target.architecture,
        "strzoo.precision": precision,
        "strzoo.sparsity": f"{sparsity:.4f}",
        "strzoo.output": "softmax probabilities" if softmax else "logits",
        "strzoo.preprocessing": json.dumps(preprocessing),
    }
    if card := target.card:
        entries |= {
            "strzoo.dataset": card.dataset,
            "strzoo.source": card.source,
            "strzoo.license": card.license,
            "strzoo.citation": card.citation,
            "strzoo.published": json.dumps(dataclasses.asdict(card.published)),
        }
    if class_names:
        entries["strzoo.class_names"] = json.dumps(list(class_names), ensure_ascii=False)
    return entries
