"""What a training of FastGRNN has come to: epochs, and the best network of every pair of ranks."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from strzoo.files import write_text
from strzoo.rnn.classifier import SequenceClassifier
from strzoo.rnn.config import RNNConfig

_COLUMNS = ("epoch", "loss", "top1", "learning_rate", "rank_w", "rank_u", "seconds")


@dataclass(frozen=True)
class RNNEpoch:
    """One epoch, counted from 1: mean training loss, test top-1 in percent, last learning rate, the
    ranks of W and U of each cell (layer by layer, forward first), seconds of training."""

    epoch: int
    loss: float
    top1: float
    learning_rate: float
    rank_w: tuple[int, ...]
    rank_u: tuple[int, ...]
    seconds: float

    @property
    def ranks(self) -> str:
        """As in file names: 9_8, or 9+8_8+7 with two cells."""
        return "_".join("+".join(map(str, ranks)) for ranks in (self.rank_w, self.rank_u))


@dataclass(frozen=True)
class RankResult:
    """The best epoch of a pair of ranks (the latest of equals), its folded network and file."""

    epoch: RNNEpoch
    model: SequenceClassifier
    file: Path | None


@dataclass(frozen=True)
class RNNTrainResult:
    """`model` is the network after the last epoch, not folded; `by_rank` goes from the highest
    ranks down."""

    config: RNNConfig
    model: SequenceClassifier
    history: tuple[RNNEpoch, ...]
    by_rank: tuple[RankResult, ...]
    folder: Path | None

    @property
    def last(self) -> RNNEpoch:
        return self.history[-1]

    @property
    def best(self) -> RankResult:
        """Of the highest top-1; the smallest ranks of equals."""
        return max(
            self.by_rank,
            key=lambda one: (one.epoch.top1, -sum(one.epoch.rank_w + one.epoch.rank_u)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "schema": 1,
            "folder": None if self.folder is None else str(self.folder),
            "config": asdict(self.config),
            "last": asdict(self.last),
            "best": _spell(self.best),
            "by_rank": [_spell(one) for one in self.by_rank],
            "history": [asdict(one) for one in self.history],
        }


def _spell(one: RankResult) -> dict[str, Any]:
    return {**asdict(one.epoch), "file": None if one.file is None else str(one.file)}


def write_results(result: RNNTrainResult, folder: Path) -> None:
    """`results.csv`, a row per epoch, and `result.json`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for epoch in result.history:
        values = {**asdict(epoch), "rank_w": "+".join(map(str, epoch.rank_w)),
                  "rank_u": "+".join(map(str, epoch.rank_u))}  # fmt: skip
        writer.writerow([values[name] for name in _COLUMNS])
    write_text(folder / "results.csv", text.getvalue())
    write_text(folder / "result.json", json.dumps(result.to_dict(), indent=2) + "\n")
