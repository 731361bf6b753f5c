"""Where in a document the weights are: training code wraps them in mappings of many names.

The rules, in order: the named entries of `ENTRIES`, up to three inside each other; a document that
is the state dict itself, or a network that was saved whole (its tensors, without its code); the one
entry that holds weights, whatever its name, or its place in a list. Weights are tensors whose name
begins with `weight`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from strzoo.checkpoint.masks import names_masks
from strzoo.checkpoint.rebuilding import StandIn, StateDict
from strzoo.checkpoint.stored import Stored, StoredTensor
from strzoo.errors import IntegrityError, UsageError

# The weights as trained come first, then averages of them.
_TRAINED = (
    *("state_dict", "model_state_dict", "model", "net", "network"),
    *("module", "weights", "params", "student"),
)
AVERAGED = (
    *("state_dict_ema", "model_state_dict_ema", "model_ema_state_dict", "ema_state_dict"),
    *("model_ema", "params_ema", "ema", "teacher"),
)
ENTRIES = (*_TRAINED, *AVERAGED)
_DEEPEST = 3  # entries inside each other
_MOST_TENSORS = 1 << 17
_MOST_ITEMS = 64  # of a list that are looked at
_DEEPEST_LAYER = 64
_SCRIPTED = "__torch__."  # how TorchScript calls classes


@dataclass(frozen=True)
class Weights:
    """A state dict found in a document.

    Args:
        state: entries by key; not all need be tensors.
        metadata: plain values beside it, and the entry `strzoo` of files that we wrote.
        path: names of the entries that lead to it.
        others: of further entries that hold weights.
        network: the class of the network that was saved whole, or "".
        attributes: of the mapping: torch's `_metadata`.
        masks: by the names of entries beside it, which weights are left, by the keys of `state`.
        odd_masks: names of entries that may be masks, but of something else or of another time.
    """

    state: Mapping[Any, Any]
    metadata: Mapping[str, Any]
    path: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    network: str = ""
    attributes: Any = None
    masks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    odd_masks: tuple[str, ...] = ()


def find_weights(document: Any, entry: str | None = None) -> Weights:
    """The state dict in a document.

    Args:
        document: as `containers` gives it.
        entry: which entry to take; by default the first of `ENTRIES` that there is.

    Raises:
        IntegrityError: it holds no tensors by name.
        UsageError: there is no such entry, or it holds none.
    """
    return _Search().run(document, entry)


@dataclass(frozen=True)
class _Place:
    """Weights below a value: the entries that lead there, the mappings passed, what holds them."""

    path: tuple[str, ...]
    holders: tuple[Mapping[Any, Any], ...]
    value: Any

    def below(self, name: str, holder: Mapping[Any, Any]) -> _Place:
        return _Place((name, *self.path), (holder, *self.holders), self.value)


class _Search:
    """Looks at each value once: a document may hold the same one in a million places."""

    def __init__(self) -> None:
        self.states: dict[int, Mapping[str, Any] | None] = {}
        self.places: dict[tuple[int, int], _Place | None] = {}

    def run(self, document: Any, entry: str | None) -> Weights:
        place = self.find(document, 0) if entry is None else self._take(document, entry)
        if place is None:
            raise IntegrityError(f"it holds {_describe(document)}{self._several(document)}")
        state = self.state(place.value)
        assert state is not None
        holders = place.holders or (state,)
        metadata: dict[str, Any] = {}
        for holder in holders:
            metadata.update(_plain_values(holder))
        others = tuple(
            name
            for name in ENTRIES
            if place.holders and name in holders[0] and name != place.path[0]
            if self.find(holders[0][name], 1) is not None
        )
        whole = isinstance(place.value, StandIn) and _is_network(place.value)
        return Weights(
            state,
            metadata,
            place.path,
            others,
            place.value.kind.removeprefix(_SCRIPTED) if whole else "",
            place.value.attributes if isinstance(place.value, StateDict) else None,
            *self._find_masks(place, state),
        )

    def _several(self, document: Any) -> str:
        able = self._able(_entries(document) or {}, 0)
        if not able:
            return ", not a state dict"
        names = ", ".join(repr(str(name)[:40]) for name in list(able)[:8])
        return f"; {len(able)} entries hold weights ({names}): convert --entry takes one of them"

    def _find_masks(
        self, place: _Place, state: Mapping[str, Any]
    ) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
        """Entries with tensors for weights by their keys, whose names say that they are masks, and
        the names of those that say so of something else."""
        masks: dict[str, dict[str, Any]] = {}
        odd = []
        for depth, holder in enumerate(place.holders):
            for name, value in holder.items():
                if not isinstance(name, str) or "mask" not in name.lower() or value is state:
                    continue
                found = {}
                for key, mask in (self.state(value) or {}).items():
                    weight = key if key in state else f"{key}.weight"
                    if weight in state and isinstance(mask, Stored | Tensor):
                        found[weight] = mask
                shown = spell_path((*place.path[:depth], name))
                if found and names_masks(name):
                    masks[shown] = found
                elif any(_shape(state[weight]) == _shape(mask) for weight, mask in found.items()):
                    odd.append(shown)
        return masks, tuple(odd)

    def _take(self, document: Any, entry: str) -> _Place:
        holder = _entries(document) or {}
        found = self.find(holder[entry], 1) if entry in holder else None
        if found is None:
            able = [str(name) for name in holder if self.find(holder[name], 1) is not None]
            raise UsageError(
                f"there is no entry {entry!r} that holds weights; "
                + (f"there are {', '.join(able[:8])}" if able else "there is none at all")
            )
        return found.below(entry, holder)

    def find(self, value: Any, depth: int) -> _Place | None:
        key = id(value), depth
        if key not in self.places:
            self.places[key] = None  # if it holds itself
            self.places[key] = self._find(value, depth)
        return self.places[key]

    def _find(self, value: Any, depth: int) -> _Place | None:
        mapping = _entries(value)
        if mapping is not None and depth < _DEEPEST:
            for name in ENTRIES:
                if name in mapping and (found := self.find(mapping[name], depth + 1)):
                    return found.below(name, mapping)
        if self._has_weights(value):
            return _Place((), (), value)
        if mapping is not None and depth < _DEEPEST:
            able = self._able(mapping, depth)
            if len(able) == 1:
                ((name, place),) = able.items()
                return place.below(name, mapping)
        return None if self.state(value) is None else _Place((), (), value)

    def _able(self, mapping: Mapping[Any, Any], depth: int) -> dict[str, _Place]:
        """The entries that are weights, or, if none is, those in which there are some."""
        direct = {k: _Place((), (), v) for k, v in mapping.items()
                  if isinstance(k, str) and self._has_weights(v)}  # fmt: skip
        if direct:
            return direct
        found = {k: self.find(v, depth + 1) for k, v in mapping.items() if isinstance(k, str)}
        return {k: p for k, p in found.items() if p is not None and self._has_weights(p.value)}

    def state(self, value: Any) -> Mapping[str, Any] | None:
        """The state dict that `value` is or, as a network, has; None if it has no tensors."""
        if id(value) not in self.states:
            entries = None if isinstance(value, list | tuple) else _entries(value)
            if entries is None and isinstance(value, StandIn) and _is_network(value):
                entries = dict(_walk(value))
            named = entries is not None and any(
                isinstance(k, str) and isinstance(v, Stored | Tensor) for k, v in entries.items()
            )
            self.states[id(value)] = entries if named else None
        return self.states[id(value)]

    def _has_weights(self, value: Any) -> bool:
        state = self.state(value) or {}
        return any(str(key).rpartition(".")[2].startswith("weight") for key in state)


def _entries(value: Any) -> Mapping[Any, Any] | None:
    """`value` as a mapping, one of a foreign class (EasyDict, DictConfig) and a list included."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list | tuple):
        return _Items((str(index), item) for index, item in enumerate(value[:_MOST_ITEMS]))
    return value.entries if isinstance(value, StandIn) and value.entries else None


class _Items(dict[str, Any]):
    """The items of a list by their places."""


def _is_network(value: StandIn) -> bool:
    state = value.state
    return isinstance(state, dict) and (
        value.kind.startswith(_SCRIPTED) or {"_parameters", "_modules"} <= state.keys()
    )


def _walk(network: StandIn) -> Iterator[tuple[str, Any]]:
    """The tensors of a network that was saved whole, by the keys of its state dict."""
    pending: list[tuple[str, Any, int]] = [("", network, 0)]
    seen = 0
    while pending:
        prefix, layer, depth = pending.pop()
        if not isinstance(layer, StandIn) or not isinstance(layer.state, dict):
            continue
        state = layer.state
        groups: list[dict[Any, Any]] = [state]
        if not layer.kind.startswith(_SCRIPTED):
            groups = [_dict(state.get(n)) for n in ("_parameters", "_buffers", "_modules")]
        seen += 1 + sum(map(len, groups))
        if seen > _MOST_TENSORS or depth > _DEEPEST_LAYER:
            raise IntegrityError("it holds a network whose layers do not end")
        unsaved = state.get("_non_persistent_buffers_set")
        unsaved = unsaved if isinstance(unsaved, set) else set()
        for name, value in (item for group in groups for item in group.items()):
            if isinstance(value, Stored) and name not in unsaved:
                yield f"{prefix}{name}", value
        children = [(f"{prefix}{k}.", v, depth + 1) for k, v in groups[-1].items()]
        pending += reversed(children)


def spell_path(names: Iterable[str]) -> str:
    """The names of entries inside each other, as messages give them."""
    return " > ".join(repr(name[:40]) for name in names)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _plain_values(holder: Mapping[Any, Any]) -> dict[str, Any]:
    """What is kept of the values beside the weights: epoch, best_acc1, arch, ..."""
    return {
        key: value
        for key, value in holder.items()
        if isinstance(key, str)
        and not isinstance(holder, _Items)
        and (isinstance(value, str | int | float) or (key == "strzoo" and isinstance(value, dict)))
    }


def _describe(value: Any) -> str:
    if isinstance(value, StandIn):
        return f"a {value.kind}"
    if isinstance(value, Mapping):
        names = ", ".join(repr(str(key)[:40]) for key in list(value)[:6])
        return f"a mapping with {names or 'nothing'}"
    kind = "tensor" if isinstance(value, StoredTensor) else type(value).__name__
    plain = {"tensor": "one tensor", "list": "a list", "tuple": "a tuple"}
    return plain.get(kind, f"a value of type {kind}")
