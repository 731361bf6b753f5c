"""verify: do the published figures follow from the weights (or the budget) of a model?"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from strzoo.analysis.comparison import MISMATCH, Comparison, compare_published
from strzoo.analysis.report import is_file_argument, report
from strzoo.errors import UsageError
from strzoo.settings import Settings
from strzoo.zoo.registry import ModelCard, get_card, load_registry


@dataclass(frozen=True)
class Verification:
    """The comparisons of one model; `source` as in `Report`."""

    model: str
    source: str
    lines: tuple[Comparison, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """No figure differs. A known misprint passes, a figure that needs weights too."""
        return all(line.verdict != MISMATCH for line in self.lines)

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "source": self.source,
            "passed": self.passed,
            "lines": [asdict(line) for line in self.lines],
            "notes": list(self.notes),
        }


def verify(
    target: str | os.PathLike[str],
    *,
    against: str | None = None,
    settings: Settings | None = None,
) -> Verification:
    """Compute params, sparsity and FLOPs of a model and compare them with the published ones.

    Args:
        target: a model id, or a checkpoint file.
        against: for a file, the id of the model it should be; recognised by content if None.
        settings: cache folder and registries; from the environment by default.

    Raises:
        UnknownNameError: the id is unknown.
        UsageError: `against` is given for an id.
        IntegrityError: the file is damaged, or matches no published model.
    """
    settings = settings or Settings.from_env()
    text = os.fspath(target)
    if is_file_argument(text):
        return _verify_file(text, against, settings)
    if against is not None:
        raise UsageError(f"{text} is a model id: `against` is for a checkpoint file")
    card = get_card(text, settings=settings)
    made = report(card.id, settings=settings)
    return Verification(card.id, made.source, compare_published(card, made), made.notes)


def _verify_file(path: str, against: str | None, settings: Settings) -> Verification:
    from strzoo.checkpoint import identify, read_checkpoint

    registry = load_registry(settings)
    checkpoint = read_checkpoint(path)
    card: ModelCard = registry.get(against) if against else identify(checkpoint, registry)[0]
    made = report(checkpoint, settings=settings)
    return Verification(card.id, made.source, compare_published(card, made), made.notes)
