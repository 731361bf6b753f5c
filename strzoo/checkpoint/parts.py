"""Weights that an index divides among files beside it, as Hugging Face's libraries save them."""

from __future__ import annotations

from pathlib import Path

from strzoo.borders import resolve_inside
from strzoo.errors import IntegrityError
from strzoo.strict_json import convert, read_json

_MOST = 1000  # files that an index names


def list_parts(path: Path) -> tuple[dict[str, str], list[Path]]:
    """The name of the file that holds each tensor, and those files.

    Raises:
        StrzooError: the index cannot be read, or a file that it names is not there.
        IntegrityError: it is no index, or names files outside its folder.
    """
    found = read_json(path)
    names = found.get("weight_map") if isinstance(found, dict) else None
    places: dict[str, str] = convert(dict[str, str], names, f"{path}: weight_map")
    files = sorted(set(places.values()))
    if not files or len(files) > _MOST:
        raise IntegrityError(f"{path} names {len(files):,} files; expected 1 to {_MOST}")
    return places, [resolve_inside(path.parent, name, str(path)) for name in files]
