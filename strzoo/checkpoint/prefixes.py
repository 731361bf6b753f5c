"""Prefixes that wrappers and training frameworks put before every key of a network.

Names that only wrappers use are removed wherever they stand in a key. What else is before the
names of a network is removed if the rest is one of the zoo's: combinations of `PREFIXES`, or a
first name that all keys share, or the only one below which there is a network that is no average
of another. What lies outside is left out; both are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from strzoo.errors import IntegrityError

# Names that DataParallel, AveragedModel, torch.compile and the like add; no network uses them.
_WRAPPERS = frozenset({"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module"})
PREFIXES = ("model.", "backbone.", "encoder.", "net.", "network.")
_DEEPEST = 4
_SHOWN = 4
_HEADS = ("fc", "classifier", "head.fc", "head", "linear")
# What is counted beside the weights: networks in AveragedModel's average; operations, by thop.
_COUNTERS = ("n_averaged", "total_ops", "total_params")
# Parts of names below which training code keeps an average of the network.
_AVERAGES = frozenset({"ema", "teacher", "target", "momentum", "avg", "average", "swa", "k"})
_MOST_NAMES = 64  # first names that are looked below


@dataclass(frozen=True)
class Stripped:
    """A state dict with plain keys, the prefixes taken away, the keys left out, the key of the
    weight that became the classifier's ("" if it was there)."""

    state: dict[str, Tensor]
    prefixes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    head: str = ""

    @property
    def notes(self) -> list[str]:
        found = [f"prefix {prefix!r} stripped" for prefix in self.prefixes]
        if self.head:
            found.append(f"classifier from {self.head!r}")
        if self.left_out:
            more = len(self.left_out) - _SHOWN
            shown = ", ".join(key[:60] for key in self.left_out[:_SHOWN])
            found.append(f"left out {shown}" + (f" and {more} more" if more > 0 else ""))
        return found


def strip_prefixes(
    state: Mapping[str, Tensor], is_known: Callable[[Mapping[str, Tensor]], bool]
) -> Stripped:
    """`state` with the plain keys of a network; whole but for wrappers if none is found.

    Args:
        state: keys as a file has them.
        is_known: whether plain keys are those of a network of the zoo.
    """
    plain, wrappers = _without_wrappers(state)
    counters = tuple(key for key in plain if key.rpartition(".")[2] in _COUNTERS)
    if not counters and is_known(state) and not (wrappers and is_known(plain)):
        return Stripped(dict(state))
    for key in counters:
        del plain[key]
    prefix = next((p for p in _candidates(plain) if is_known(_below(plain, p))), None)
    if prefix is None:
        prefix = _find_other(plain, is_known)
    if prefix is None:
        return Stripped(plain, tuple(wrappers), counters)
    inside = _below(plain, prefix)
    outside = {k: v for k, v in plain.items() if not k.startswith(prefix)}
    head = _move_head(inside, outside)
    return Stripped(
        inside, (*wrappers, prefix) if prefix else tuple(wrappers), (*counters, *outside), head
    )


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _find_other(
    state: Mapping[str, Tensor], is_known: Callable[[Mapping[str, Tensor]], bool]
) -> str | None:
    """The first name, whatever it is, below which a network is; None if there is none.

    Raises:
        IntegrityError: there are several, and not all but one are averages.
    """
    firsts = dict.fromkeys(key.partition(".")[0] + "." for key in state if "." in key)
    found = []
    for first in list(firsts)[:_MOST_NAMES]:
        inside = _below(state, first)
        prefix = next((p for p in _candidates(inside) if is_known(_below(inside, p))), None)
        if prefix is not None:
            found.append(first + prefix)
    trained = [p for p in found if not _AVERAGES.intersection(p.replace(".", "_").split("_"))]
    if len(found) > 1 and len(trained) != 1:
        raise IntegrityError(
            f"it holds {len(found)} networks, below {', '.join(map(repr, found[:_SHOWN]))}; save "
            "the state dict of the one that is meant"
        )
    return next(iter(trained or found), None)


def _move_head(inside: dict[str, Tensor], outside: dict[str, Tensor]) -> str:
    """Frameworks with a `backbone` keep the classifier beside it; move it in. Gives its key."""
    if any(f"{name}.weight" in inside for name in _HEADS):
        return ""
    for name in _HEADS:
        if f"{name}.weight" in outside:
            for leaf in ("weight", "bias", "sparseThreshold"):
                if f"{name}.{leaf}" in outside:
                    inside[f"{_HEADS[0]}.{leaf}"] = outside.pop(f"{name}.{leaf}")
            return f"{name}.weight"
    return ""


def _without_wrappers(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Keys that would become equal, or whose network has such names of its own, stay."""
    plain: dict[str, Tensor] = {}
    found: dict[str, None] = {}
    for key, value in state.items():
        names = key.split(".")
        found.update(dict.fromkeys(name for name in names[:-1] if name in _WRAPPERS))
        plain[".".join([n for n in names[:-1] if n not in _WRAPPERS] + names[-1:])] = value
    if len(plain) < len(state):
        return dict(state), []
    return plain, [f"{name}." for name in found]


def _candidates(keys: Iterable[str]) -> list[str]:
    """Prefixes that occur, "" first, shorter ones before longer ones."""
    keys = list(keys)
    found, level = [""], [""]
    for _ in range(_DEEPEST):
        longer = []
        for prefix in level:
            rest = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
            firsts = {key.partition(".")[0] + "." for key in rest if "." in key}
            known = [p for p in PREFIXES if p in firsts]
            if len(firsts) == 1 and all("." in key for key in rest):
                known = list(firsts)
            longer += [prefix + p for p in known]
        found += longer
        level = longer
    return found
