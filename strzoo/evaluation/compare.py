"""compare: several models side by side: totals, layers, masks, and what they say of photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from strzoo.analysis.comparison import compare_published
from strzoo.analysis.masks import MaskOverlap, overlap, read_masks
from strzoo.analysis.report import report
from strzoo.analysis.results import Report
from strzoo.arguments import checked
from strzoo.errors import StrzooError, UsageError
from strzoo.evaluation.compare_results import (
    Agreement,
    LayerComparison,
    ModelComparison,
    ModelTotals,
)
from strzoo.hub.families import FamilySource
from strzoo.hub.graph_sources import PlanSource
from strzoo.hub.network_sources import CardSource
from strzoo.hub.resolve import resolve
from strzoo.hub.source import Source
from strzoo.settings import Settings

if TYPE_CHECKING:
    from PIL import Image

    from strzoo.evaluation.predict import Prediction
    from strzoo.hub.resolve import Model

_GRID = 3  # windows of each photograph, in each direction
_BEST = 5
_ALL = 1_000_000  # more classes than a network has


@dataclass(frozen=True)
class _Layer:
    """A layer of one model; `weights` counts them, zeros included."""

    name: str
    weights: int
    nonzeros: int | None
    shape: tuple[int, ...] | None = None
    sparse_macs: int | None = None

    @property
    def sparsity(self) -> float | None:
        if self.nonzeros is None:
            return None
        return 100.0 * (self.weights - self.nonzeros) / max(self.weights, 1)


@checked
def compare(
    models: Sequence[Model], *, predictions: bool = True, settings: Settings | None = None
) -> ModelComparison:
    """Totals, layers, masks and answers of several models side by side.

    Layers are matched by name, and by their order where two models name them differently but have
    the same numbers of weights. Masks and answers need weights: an id is compared by them if its
    file is in the cache (nothing is downloaded), else by its budget alone. A compiled plan has
    answers, and numbers of weights, but no masks and MACs.

    Args:
        models: two or more of what `strzoo.report` takes, and `.strz` files.
        predictions: run the models on windows of the bundled photographs.
        settings: cache folder and registries; from the environment by default.

    Returns:
        Sparsity in percent, MACs of one image; a pair of models for each overlap and agreement;
        `notes` say what could not be compared.

    Raises:
        UsageError: fewer than two models, or one is not for images.
        StrzooError and its subclasses: a model cannot be read.
    """
    if not isinstance(models, list | tuple) or len(models) < 2:
        raise UsageError("give a list of two or more models to compare")
    sources = [resolve(model, settings=settings) for model in models]
    names = _name(sources)
    notes: list[str] = []
    reports = [_report(source, name, notes) for source, name in zip(sources, names, strict=True)]
    sizes = {n: r.input_size for n, r in zip(names, reports, strict=True) if r is not None}
    if len(set(sizes.values())) > 1:
        spelled = ", ".join(f"{n} {'x'.join(map(str, size))}" for n, size in sizes.items())
        notes.append(f"MACs are of images of different sizes: {spelled}")
    layers = [_list_layers(s, r) for s, r in zip(sources, reports, strict=True)]
    renamed = _align(layers)
    return ModelComparison(
        names,
        tuple(map(_total, sources, names, reports, layers)),
        tuple(reports),
        _compare_layers(layers, renamed),
        _compare_masks(sources, names, renamed, notes),
        _agree(sources, names, notes) if predictions else (),
        tuple(notes),
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
        notes.append(f"{name}: a compiled plan has no masks and MACs; {source.wanted}")
        return None
    made = report(source)
    notes += [f"{name}: {note}" for note in made.notes]
    return made


def _list_layers(source: Source, made: Report | None) -> list[_Layer]:
    if made is not None:
        return [_Layer(x.name, x.params, x.nonzeros, x.shape, x.sparse_macs) for x in made.layers]
    return [_Layer(*known) for known in source.layers] if isinstance(source, PlanSource) else []


def _total(source: Source, name: str, made: Report | None, layers: Sequence[_Layer]) -> ModelTotals:
    card = source.card
    top1 = None if card is None else card.published.top1
    if made is not None:
        published = () if card is None else compare_published(card, made)
        counts = made.to_dict()["totals"]
        figures = ("weights", "nonzeros", "sparsity", "dense_macs", "sparse_macs")
        known = {figure: counts[figure] for figure in figures}
        return ModelTotals(name, made.source, **known, published_top1=top1, published=published)
    if not layers:
        return ModelTotals(name, "plan", None, None, None, published_top1=top1)
    whole = _Layer("", sum(x.weights for x in layers), sum(x.nonzeros or 0 for x in layers))
    counts = (whole.weights, whole.nonzeros, whole.sparsity)
    return ModelTotals(name, "plan", *counts, published_top1=top1)


def _align(models: Sequence[Sequence[_Layer]]) -> list[dict[str, str]]:
    """What the layers of each model are called here: by their own names, or by those of an earlier
    model whose layers have as many weights, one after the other."""
    renamed: list[dict[str, str]] = []
    for number, layers in enumerate(models):
        own = [layer.name for layer in layers]
        found = own
        for other, names in zip(models[:number], renamed, strict=True):
            theirs = [names[layer.name] for layer in other]
            same = [x.weights for x in layers] == [x.weights for x in other]
            both = set(own) & set(theirs)
            if set(own) == set(theirs):
                break
            if same and all(own.index(n) == theirs.index(n) for n in both):
                found = theirs
                break
        renamed.append(dict(zip(own, found, strict=True)))
    return renamed


def _compare_layers(
    models: Sequence[Sequence[_Layer]], renamed: Sequence[dict[str, str]]
) -> tuple[LayerComparison, ...]:
    """The layers of all models, those that only one has where they are in it."""
    tables = [{n[x.name]: x for x in ls} for ls, n in zip(models, renamed, strict=True)]
    order: list[str] = []
    for table in tables:
        waiting: list[str] = []
        for name in table:
            if name in order:
                place = order.index(name)
                order[place:place] = waiting
                waiting = []
            else:
                waiting.append(name)
        order += waiting
    rows = [(name, [table.get(name) for table in tables]) for name in order]
    return tuple(
        LayerComparison(
            name,
            tuple(None if x is None else x.shape for x in row),
            tuple(None if x is None else x.sparsity for x in row),
            tuple(None if x is None else x.sparse_macs for x in row),
        )
        for name, row in rows
    )


def _compare_masks(
    sources: Sequence[Source],
    names: Sequence[str],
    renamed: Sequence[dict[str, str]],
    notes: list[str],
) -> tuple[MaskOverlap, ...]:
    masks = []
    for source, here in zip(sources, renamed, strict=True):
        read = read_masks(source)
        masks.append(None if read is None else {here.get(n, n): m for n, m in read.items()})
    made = []
    for (i, a), (j, b) in combinations(enumerate(masks), 2):
        if a is None or b is None:
            continue
        pair = overlap((names[i], a), (names[j], b))
        if pair is None:
            notes.append(f"{names[i]} and {names[j]} have no layer of one name and shape")
        else:
            made.append(pair)
    return tuple(made)


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
        try:
            answers[name] = predict(source, images, top=_ALL)
        except StrzooError as error:  # a network with other inputs or outputs, say
            notes.append(f"{name}: no predictions: {error}")
    classes = {name: [[g.index for g in p.guesses] for p in a] for name, a in answers.items()}
    made = []
    for a, b in combinations(classes, 2):
        counts = len(classes[a][0]), len(classes[b][0])
        if counts[0] != counts[1]:
            notes.append(f"{a} and {b} have {counts[0]} and {counts[1]} classes: other answers")
            continue
        both = list(zip(classes[a], classes[b], strict=True))
        same = sum(x[0] == y[0] for x, y in both)
        best = min(_BEST, counts[0])
        shared = sum(len(set(x[:best]) & set(y[:best])) / best for x, y in both)
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
