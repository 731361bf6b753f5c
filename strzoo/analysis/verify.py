"""verify: do the published figures follow from the weights (or the budget) of a model?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from strzoo.analysis.comparison import MISMATCH, Comparison, compare_published
from strzoo.analysis.report import report
from strzoo.arguments import checked
from strzoo.errors import UsageError
from strzoo.hub.network_sources import CardSource
from strzoo.hub.resolve import resolve
from strzoo.settings import Settings
from strzoo.zoo.registry import load_registry

if TYPE_CHECKING:
    from strzoo.hub.resolve import Model


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


@checked
def verify(
    target: Model,
    *,
    against: str | None = None,
    settings: Settings | None = None,
) -> Verification:
    """Compute params, sparsity and FLOPs of a model and compare them with the published ones.

    Args:
        target: a model id, or a checkpoint file.
        against: for a file, the id of the model it should be; recognised by content if None.
        settings: cache folder and registries; from the environment by default.

    Returns:
        A comparison per published figure, with its verdict.

    Raises:
        UnknownNameError: the id is unknown.
        UsageError: `against` is given for an id.
        IntegrityError: the file is damaged, or matches no published model.
    """
    source = resolve(target, settings=settings)
    if isinstance(source, CardSource):
        if against is not None:
            raise UsageError(f"{source.name} is a model id: `against` is for a checkpoint file")
        card = source.card
    else:
        from strzoo.checkpoint import identify

        registry, checkpoint = load_registry(source.settings), source.checkpoint
        card = registry.get(against) if against else identify(checkpoint, registry)[0]
    assert card is not None
    made = report(source)
    return Verification(card.id, made.source, compare_published(card, made), made.notes)
