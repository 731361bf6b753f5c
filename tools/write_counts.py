"""Count the published architectures afresh and write strzoo/analysis/counts: `make counts`."""

from __future__ import annotations

import dataclasses
import json

from strzoo.analysis.counting import count_dense
from strzoo.analysis.dense_counts import FOLDER
from strzoo.analysis.results import DenseCounts
from strzoo.files import write_text
from strzoo.models.create import create_model

NAMES = ("mobilenetv1", "resnet50")  # at 1000 classes


def spell_counts(counts: DenseCounts) -> str:
    """The file of `counts`: one layer a line."""
    document = {
        "model": counts.model,
        "input_size": counts.input_size,
        "params": counts.params,
        "layers": [dataclasses.asdict(layer) for layer in counts.layers],
        "other_macs": dict(counts.other_macs),
        "uncounted": dict(counts.uncounted),
    }
    text = json.dumps(document).replace(' {"name"', '\n  {"name"')
    return text.replace('[{"name"', '[\n  {"name"').replace('], "other', '\n], "other') + "\n"


if __name__ == "__main__":
    for name in NAMES:
        made = count_dense(create_model(name), name=name)
        print(write_text(FOLDER / f"{name}.json", spell_counts(made), force=True))
