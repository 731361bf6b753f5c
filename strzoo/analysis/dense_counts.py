"""Dense counts of the published architectures, counted once and shipped, so that a report from
a budget needs neither torch nor a forward pass.

`python -m strzoo.analysis.counting` writes the files; a test counts afresh and compares.
"""

from __future__ import annotations

import dataclasses
import json
from functools import lru_cache
from pathlib import Path

from strzoo.analysis.results import DenseCounts
from strzoo.files import write_text
from strzoo.strict_json import build_record, read_json

FOLDER = Path(__file__).resolve().parent / "counts"
NAMES = ("mobilenetv1", "resnet50")  # at 1000 classes
INPUT_SIZE = (3, 224, 224)


@lru_cache(maxsize=8)
def shipped_counts(architecture: str) -> DenseCounts | None:
    """The counts of that architecture with 1000 classes at 224x224, or None if not shipped."""
    path = FOLDER / f"{architecture}.json"
    return build_record(DenseCounts, read_json(path), str(path)) if path.exists() else None


def write_counts(counts: DenseCounts, folder: Path = FOLDER) -> Path:
    """Store `counts` as the shipped file of its model."""
    document = {
        "model": counts.model,
        "input_size": counts.input_size,
        "params": counts.params,
        "layers": [dataclasses.asdict(layer) for layer in counts.layers],
        "other_macs": dict(counts.other_macs),
        "uncounted": dict(counts.uncounted),
    }
    text = (
        json.dumps(document)
        .replace(' {"name"', '\n  {"name"')
        .replace('[{"name"', '[\n  {"name"')
        .replace('], "other', '\n], "other')
    )
    return write_text(folder / f"{counts.model}.json", text + "\n", force=True)
