"""compare: several models side by side: totals, layers, masks, and what they say of photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from strzoo.analysis.masks import MaskOverlap, overlap, read_masks
from strzoo.analysis.report import report
from strzoo.analysis.results import CONVENTION, Report
from strzoo.arguments import checked
from strzoo.errors import UsageError
from strzoo.hub.families import FamilySource
from strzoo.hub.resolve import resolve
from strzoo.hub.source import CardSource, PlanSource, Source
from strzoo.settings import Settings

if TYPE_CHECKING:
    from PIL import Image

    from strzoo.evaluation.predict import Prediction
    from strzoo.hub.resolve import Model

_GRID = 3  # windows of each photograph, in each direction


@dataclass(frozen=True)
class LayerComparison:
    """One layer in all models, None in those that lack it: sparsity in percent, and MACs left."""

    name: str
    shape: tuple[int, ...]
    sparsity: tuple[float | None, ...]
    sparse_macs: tuple[int | None, ...]


@dataclass(frozen=True)
class Agreement:
    """How far two models give the same answers on `images` pictures: the percentage with the same
    most likely class, and the share of the five best that both name, in percent."""

    first: str
    second: str
    images: int
    top1: float
    top5: float


@dataclass(frozen=True)
class ModelComparison:
    """Several models: `names` and `reports` in the order given (None where a model has no weights
    to report on), the layers of all, the pairs that could be compared, and what could not."""

    names: tuple[str, ...]
    reports: tuple[Report | None, ...]
    layers: tuple[LayerComparison, ...]
    masks: tuple[MaskOverlap, ...]
    agreement: tuple[Agreement, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        models = [
            {
                "name": name,
                **({} if made is None else {"source": made.source, **made.to_dict()["totals"]}),
            }
            for name, made in zip(self.names, self.reports, strict=True)
        ]
        return {
            "schema": 1,
            "convention": CONVENTION,
            "models": models,
            "layers": [asdict(layer) for layer in self.layers],
            "masks": [asdict(pair) for pair in self.masks],
            "agreement": [asdict(pair) for pair in self.agreement],
            "notes": list(self.notes),
        }


@checked
def compare(
    models: Sequence[Model], *, predictions: bool = True, settings: Settings | None = None
) -> ModelComparison:
    """Totals, layers, masks and answers of several models side by side.

    Layers are matched by name, and by their order where two models name them differently but have
    the same shapes. Masks and answers need weights: an id is compared by them if its file is in the
    cache (nothing is downloaded), else by its budget alone.

    Args:
        models: two or more of what `strzoo.report` takes, and `.strz` files.
        predictions: run the models on windows of the bundled photographs.
        settings: cache folder and registries; from the environment by default.

    Returns:
        Sparsity in percent, MACs of one image; a pair of models for each overlap and agreement.

    Raises:
        UsageError: fewer than two models, or one is not for images.
        StrzooError and its subclasses: a model cannot be read.
    """
    if len(models) < 2:
        raise UsageError("give two or more models to compare")
    sources = [resolve(model, settings=settings) for model in models]
    names = _name(sources)
    notes: list[str] = []
    reports = [_report(source, name, notes) for source, name in zip(sources, names, strict=True)]
    masks = [read_masks(source) for source in sources]
    pairs = []
    for (i, a), (j, b) in combinations(enumerate(masks), 2):
        made = None
        if a is not None and b is not None:
            made = overlap((names[i], a), (names[j], b))
            if made is None:
                notes.append(f"{names[i]} and {names[j]} have no layer of one name and shape")
        if made is not None:
            pairs.append(made)
    agreement = _agree(sources, names, notes) if predictions else ()
    return ModelComparison(
        names, tuple(reports), _layers(reports), tuple(pairs), agreement, tuple(notes)
    )


def _name(sources: Sequence[Source]) -> tuple[str, ...]:
    """The sources' names; those that occur twice as their files, or with a number."""
    names = [source.name for source in sources]
    shown = [s.shown if names.count(n) > 1 else n for s, n in zip(sources, names, strict=True)]
    return tuple(
        f"{name} ({shown[: i + 1].count(name)})" if shown.count(name) > 1 else name
        for i, name in enumerate(shown)
    )


def _report(source: Source, name: str, notes: list[str]) -> Report | None:
    if isinstance(source, FamilySource):
        raise UsageError(f"{name} is {source.described}; compare networks for images")
    if isinstance(source, PlanSource):
        notes.append(f"{name}: a compiled plan has no weights to count; {source.wanted}")
        return None
    made = report(source)
    notes += [f"{name}: {note}" for note in made.notes]
    return made


def _layers(reports: Sequence[Report | None]) -> tuple[LayerComparison, ...]:
    """The layers of all reports; those of the first come first."""
    known = [made for made in reports if made is not None]
    if not known:
        return ()
    shapes = [layer.shape for layer in known[0].layers]
    order = [layer.name for layer in known[0].layers]
    tables = []
    for made in reports:
        layers = () if made is None else made.layers
        names = [layer.name for layer in layers]
        if not set(names) & set(order) and [layer.shape for layer in layers] == shapes:
            names = order
        tables.append(dict(zip(names, layers, strict=True)))
    rows = {name: layer.shape for table in tables for name, layer in table.items()}
    return tuple(
        LayerComparison(
            name,
            shape,
            tuple(table[name].sparsity if name in table else None for table in tables),
            tuple(table[name].sparse_macs if name in table else None for table in tables),
        )
        for name, shape in rows.items()
    )


def _agree(
    sources: Sequence[Source], names: Sequence[str], notes: list[str]
) -> tuple[Agreement, ...]:
    from strzoo.evaluation.predict import predict

    images = _windows()
    answers: dict[str, list[Prediction]] = {}
    for source, name in zip(sources, names, strict=True):
        if isinstance(source, CardSource) and source.cached_file is None:
            notes.append(f"{name}: no predictions, as its weights are not in the cache")
            continue
        answers[name] = predict(source, images)
    classes = {name: [[g.index for g in p.guesses] for p in a] for name, a in answers.items()}
    made = []
    for a, b in combinations(classes, 2):
        both = list(zip(classes[a], classes[b], strict=True))
        same = sum(x[0] == y[0] for x, y in both)
        shared = sum(len(set(x) & set(y)) / max(len(x), 1) for x, y in both)
        count = len(images)
        made.append(Agreement(a, b, count, 100 * same / count, 100 * shared / count))
    return tuple(made)


def _windows() -> list[Image.Image]:
    """The bundled photographs, and overlapping windows of half their sides."""
    from PIL import Image

    from strzoo.data.calibration import PHOTOGRAPHS

    made = []
    for path in sorted(PHOTOGRAPHS.glob("*.jpg")):
        whole = Image.open(path).convert("RGB")
        made.append(whole)
        width, height = whole.width // 2, whole.height // 2
        for row in range(_GRID):
            for column in range(_GRID):
                left, top = width * column // (_GRID - 1), height * row // (_GRID - 1)
                made.append(whole.crop((left, top, left + width, top + height)))
    return made
