"""Model and budget ids: parse them, spell them for Python, find the one that was meant.

An id is `architecture_method` or `architecture_method_sparsity`, sparsity in percent as
published: `resnet50_dense`, `resnet50_str_90.23`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from strzoo.errors import UnknownNameError, UsageError

_ID = re.compile(
    r"(?P<architecture>[a-z0-9]+)_(?P<method>[a-z]+)(?:_(?P<sparsity>\d{1,3}(?:\.\d+)?))?"
)


# Of more names than _MANY, an error lists _SOME.
_MANY, _SOME = 20, 12


@dataclass(frozen=True)
class ModelName:
    """The parts of an id. `sparsity` keeps the published digits (`"90.23"`), None if dense."""

    architecture: str
    method: str
    sparsity: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Split an id into its parts.

        Raises:
            UsageError: `text` does not have the form of an id.
        """
        match = _ID.fullmatch(text)
        if match is None or float(match["sparsity"] or 0) > 100:
            raise UsageError(
                f"{text!r} is not a model id; ids look like resnet50_dense or resnet50_str_90.23"
            )
        return cls(match["architecture"], match["method"], match["sparsity"])

    def __str__(self) -> str:
        parts = [self.architecture, self.method]
        return "_".join([*parts, self.sparsity] if self.sparsity else parts)

    @property
    def identifier(self) -> str:
        """The id as a Python identifier, for `hubconf.py`: dots become underscores."""
        return str(self).replace(".", "_")


def resolve_name(text: str, names: Iterable[str], kind: str = "model") -> str:
    """The one of `names` that `text` means.

    Accepts the exact name, its Python spelling (`resnet50_str_90_23`), any letter case,
    and a prefix that matches exactly one name (`resnet50_str_90`).

    Raises:
        UnknownNameError: none matches (the nearest names are listed) or several do (all listed).
    """
    known = sorted(set(names))
    wanted = text.strip().lower()
    spelled = {name.lower(): name for name in known}
    spelled.update({name.lower().replace(".", "_"): name for name in known})
    if wanted in spelled:
        return spelled[wanted]
    matches = sorted({name for key, name in spelled.items() if wanted and key.startswith(wanted)})
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UnknownNameError(f"{kind} {text!r} is ambiguous; it could be {', '.join(matches)}")
    nearest = difflib.get_close_matches(wanted, spelled, n=6, cutoff=0.5)
    candidates = list(dict.fromkeys(spelled[key] for key in nearest))[:3]
    shown = known if len(known) <= _MANY else [*known[:_SOME], f"... ({len(known)} in all)"]
    hint = f"nearest: {', '.join(candidates)}" if candidates else f"choose from {', '.join(shown)}"
    raise UnknownNameError(f"no {kind} is named {text!r:.80}; {hint}")
