"""Dense counts of the published architectures, counted once and shipped, so that a report from
a budget needs neither torch nor a forward pass.

`tools/write_counts.py` writes the files; a test counts afresh and compares.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from strzoo.analysis.results import DenseCounts
from strzoo.strict_json import build_record, read_json

FOLDER = Path(__file__).resolve().parent / "counts"
INPUT_SIZE = (3, 224, 224)


@lru_cache(maxsize=8)
def shipped_counts(architecture: str) -> DenseCounts | None:
    """The counts of that architecture with 1000 classes at 224x224, or None if not shipped."""
    path = FOLDER / f"{architecture}.json"
    return build_record(DenseCounts, read_json(path), str(path)) if path.exists() else None
