"""Which weights of a model are not zero, by layer, whatever kind of model it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from strzoo.borders import naming
from strzoo.hub.graph_sources import OnnxSource
from strzoo.hub.network_sources import CardSource, CheckpointSource, ModuleSource
from strzoo.hub.source import Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class MaskOverlap:
    """Nonzero weights of two models at the same places, over the layers that both have.

    `both` and `either` count weights; `overlap` is 100 x both / either, `chance` what masks of the
    same sizes would share if they were independent, in percent too.
    """

    first: str
    second: str
    layers: int
    both: int
    either: int
    overlap: float
    chance: float


def read_masks(source: Source) -> Masks | None:
    """True where a weight of a convolution or linear layer is not zero, by layer.

    Returns:
        None where there are no weights to look at: an id that is not in the cache, a plan of the
        sparse engine, a network for sequences.

    Raises:
        StrzooError and its subclasses: the file cannot be read.
    """
    if isinstance(source, CardSource) and source.cached_file is None:
        return None
    if isinstance(source, CheckpointSource):
        weights = source.checkpoint.effective_weights()
        return {name: (weight != 0).numpy() for name, weight in weights.items()}
    if isinstance(source, ModuleSource):
        return _network_masks(source)
    if isinstance(source, OnnxSource):
        from strzoo.onnx.weights import weighted_nodes

        with naming(source.shown):
            return {node.name: node.weight != 0 for node in weighted_nodes(source.read())}
    return None


def _network_masks(source: ModuleSource) -> Masks:
    from strzoo.analysis.counting import prunable_layers
    from strzoo.sparse.layers import SparseLayer
    from strzoo.sparse.unwrap import plain_network

    found = {}
    for name, layer in prunable_layers(plain_network(source.model)).items():
        weight = layer.effective_weight() if isinstance(layer, SparseLayer) else layer.weight
        found[name] = (weight.detach().cpu() != 0).numpy()  # type: ignore[operator]
    return found


def overlap(first: tuple[str, Masks], second: tuple[str, Masks]) -> MaskOverlap | None:
    """How far two models keep the same weights; None if they share no layer of one shape."""
    (name, masks), (other_name, others) = first, second
    pairs = [(m, _match(m, others.get(layer))) for layer, m in masks.items()]
    shared = [(m, o) for m, o in pairs if o is not None]
    if not shared:
        return None
    both = sum(int((m & o).sum()) for m, o in shared)
    either = sum(int((m | o).sum()) for m, o in shared)
    expected = [(int(m.sum()) * int(o.sum()) / max(m.size, 1), m, o) for m, o in shared]
    by_chance = sum(e for e, _, _ in expected)
    kept = sum(int(m.sum()) + int(o.sum()) for m, o in shared)
    return MaskOverlap(
        name,
        other_name,
        len(shared),
        both,
        either,
        100 * both / either if either else 100.0,
        100 * by_chance / (kept - by_chance) if kept > by_chance else 100.0,
    )


def _match(mask: NDArray[np.bool_], other: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """`other` in the shape of `mask`: ONNX files hold 1x1 classifiers as matrices, some turned."""
    if other is None or other.size != mask.size:
        return None
    if other.shape == mask.shape:
        return other
    flat = mask.reshape(mask.shape[0], -1).shape
    if other.squeeze().shape == mask.squeeze().shape:
        return other.reshape(mask.shape)
    if other.ndim == 2 and other.T.shape == flat:
        return other.T.reshape(mask.shape)
    return None
