"""Label files with one entry a line: which line belongs to which image, by the images' names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from strzoo.errors import UsageError

_NUMBER = re.compile(r"([0-9]{1,18})(?=\.[^.]*$)")  # at the end of an image's name


def match_lines(
    path: Path,
    labels: Sequence[int] | Sequence[tuple[int, ...]],
    names: Sequence[str],
    *,
    exact: bool = False,
) -> Callable[[str], Sequence[int] | None]:
    """Line n belongs to the image whose name ends in n (ILSVRC2012_val_00000001 is the first), or
    in n - 1 where one ends in 0; for names without such numbers, to the n-th image in name order if
    there are as many."""
    sets = [entry if isinstance(entry, tuple) else (entry,) for entry in labels]
    numbers = {name: int(m[1]) for name in names if (m := _NUMBER.search(name))}
    values = set(numbers.values())
    first = 1 if exact or (values and min(values)) else 0
    told = len(values) == len(names) and values and first <= min(values)
    if told and max(values) < len(sets) + first:
        return lambda name: sets[numbers[name] - first]
    if exact or len(names) != len(sets):
        raise UsageError(
            f"{path} has {len(sets)} lines for {len(names)} images whose names do not end in "
            "their number (as ILSVRC2012_val_00000001.JPEG does): it cannot be said which is which"
        )
    listed = sorted(names)
    for one, other in pairwise(listed):
        if _by_value(one) > _by_value(other):
            raise UsageError(
                f"{path} has a line for each image, but whether {one!r} comes before {other!r} is "
                "not clear: name the images in the file, one a line with its label"
            )
    order = {name: position for position, name in enumerate(listed)}
    return lambda name: sets[order[name]]


def _by_value(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers within names by their values."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts)]
