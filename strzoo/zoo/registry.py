"""The model cards: `checkpoints.json` read into frozen records, with the standard library alone.

A card says what a model is, what its authors published about it and where its files are.
"""

from __future__ import annotations

import fnmatch
import os
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from strzoo.arguments import checked
from strzoo.errors import IntegrityError, StrzooError, UnknownNameError, UsageError
from strzoo.settings import Settings
from strzoo.strict_json import build_record, read_json
from strzoo.zoo.names import ModelName, resolve_name

SCHEMA = 1
FORMATS = ("str", "dense")
# Percentage points. Sparsity is published with two digits, per layer in the budgets as well:
# half of the last digit for each.
SPARSITY_TOLERANCE = 0.01
_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class FileCard:
    """One published file: its Google Drive id or web address; size and hash once known."""

    drive_id: str | None = None
    url: str | None = None
    bytes: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not self.drive_id and not self.url:
            raise IntegrityError("a file needs a drive_id or a url")
        if self.bytes is not None and self.bytes <= 0:
            raise IntegrityError(f"bytes is {self.bytes}; it must be positive or null")
        digits = set("0123456789abcdef")
        if self.sha256 is not None and (len(self.sha256) != 64 or set(self.sha256) - digits):
            raise IntegrityError(f"sha256 {self.sha256!r} is not 64 lower-case hex digits")

    @property
    def address(self) -> str:
        """The page a browser opens to fetch the file by hand."""
        return self.url or f"https://drive.google.com/file/d/{self.drive_id}/view"


@dataclass(frozen=True)
class Published:
    """The figures of the published table, exactly as printed there.

    `params` and `flops` are texts such as "2.49M" and "343M" (FLOPs are multiply-accumulates);
    `sparsity` and `top1` are percent.
    """

    params: str
    sparsity: float
    top1: float
    flops: str


@dataclass(frozen=True)
class Erratum:
    """A published figure known to be misprinted: the value that follows from the others."""

    expected: str
    reason: str


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation preprocessing: resize the short side, crop the centre, normalise.

    `mean` and `std` have a number for each channel: three for colour images, one for grey ones.
    Lists, and a number alone, become tuples.
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            numbers = (value,) if isinstance(value, int | float) else tuple(value)
            object.__setattr__(self, name, numbers)

    @property
    def channels(self) -> int:
        """Of the images that the network sees."""
        return len(self.mean)


@dataclass(frozen=True)
class ModelCard:
    """All that is published about one model. Registry file fields have these names."""

    id: str
    architecture: str
    method: str
    published: Published
    files: Mapping[str, FileCard]
    dataset: str
    num_classes: int
    preprocessing: Preprocessing
    source: str
    license: str
    citation: str
    budget: str | None = None
    errata: Mapping[str, Erratum] = field(default_factory=lambda: types.MappingProxyType({}))

    def __post_init__(self) -> None:
        name = ModelName.parse(self.id)
        if (name.architecture, name.method) != (self.architecture, self.method):
            raise IntegrityError(
                f"id {self.id!r} does not begin with {self.architecture}_{self.method}"
            )
        if not self.files:
            raise IntegrityError("a model needs at least one file")
        counts = len(self.preprocessing.mean), len(self.preprocessing.std)
        if counts not in ((1, 1), (3, 3)):
            raise IntegrityError("preprocessing: mean and std need three numbers each, or one")
        for known, given, what in (
            (FORMATS, self.files, "format"),
            (("params", "sparsity", "top1", "flops"), self.errata, "erratum"),
        ):
            for key in given:
                if key not in known:
                    raise IntegrityError(f"unknown {what} {key!r}; choose from {', '.join(known)}")

    @property
    def identifier(self) -> str:
        """The id as a Python identifier, as in `hubconf.py`."""
        return ModelName.parse(self.id).identifier

    def file(self, format: str) -> FileCard:
        """The published file of that format ("str" or "dense").

        Raises:
            UsageError: the model has no such file; the formats it has are named.
        """
        if format not in self.files:
            raise UsageError(
                f"{self.id} has no {format!r} file; choose from {', '.join(self.files)}"
            )
        return self.files[format]

    def filename(self, format: str) -> str:
        """The name of that file in the cache and on mirrors: `<id>-<format>.pth`."""
        self.file(format)
        return f"{self.id}-{format}.pth"


@dataclass(frozen=True)
class Registry:
    """An ordered collection of cards with distinct ids."""

    cards: tuple[ModelCard, ...]

    def __iter__(self) -> Iterator[ModelCard]:
        return iter(self.cards)

    def __len__(self) -> int:
        return len(self.cards)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(card.id for card in self.cards)

    def get(self, name: str) -> ModelCard:
        """The card that `name` means (see `resolve_name`).

        Raises:
            UnknownNameError: no card or several match.
        """
        wanted = resolve_name(name, self.ids)
        return next(card for card in self.cards if card.id == wanted)

    def select(self, patterns: Iterable[str]) -> tuple[ModelCard, ...]:
        """The cards that any of the names or glob patterns match, in registry order.

        Raises:
            UnknownNameError: a pattern matches nothing.
        """
        chosen: set[str] = set()
        for pattern in patterns:
            if not any(c in pattern for c in "*?["):
                chosen.add(self.get(pattern).id)
            elif matched := fnmatch.filter(self.ids, pattern):
                chosen.update(matched)
            else:
                raise UnknownNameError(
                    f"no model matches {pattern!r}; choose from {', '.join(self.ids)}"
                )
        return tuple(card for card in self.cards if card.id in chosen)


def data_path(name: str) -> Path:
    """Where a data file or folder that ships with strzoo lies: in the wheel or the checkout.

    Raises:
        StrzooError: it is in neither, so the installation is broken.
    """
    for candidate in (_PACKAGE / "_shipped" / name, _PACKAGE.parent / name):
        if candidate.exists():
            return candidate
    raise StrzooError(f"{name} is missing from the installation; reinstall strzoo")


def read_registry(path: str | os.PathLike[str]) -> tuple[ModelCard, ...]:
    """The cards of one registry file, in order.

    The file holds `schema`, optional `defaults` (fields that every model gets unless it has
    its own) and `models`.

    Raises:
        StrzooError: the file cannot be read.
        IntegrityError: a field is unknown, missing or wrong, or an id appears twice.
    """
    path = Path(path)
    return _read_registry(path, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=8)
def _read_registry(path: Path, _modified: int) -> tuple[ModelCard, ...]:
    document = _Document.read(path)
    cards: list[ModelCard] = []
    for index, model in enumerate(document.models):
        name = model.get("id", f"models[{index}]") if isinstance(model, dict) else f"[{index}]"
        merged = {**document.defaults, **model} if isinstance(model, dict) else model
        cards.append(build_record(ModelCard, merged, f"{path}: {name}"))
    _check_distinct(cards, str(path))
    return tuple(cards)


@dataclass(frozen=True)
class _Document:
    """The outer object of a registry file."""

    models: list[Any]
    defaults: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> _Document:
        value = read_json(path)
        if not isinstance(value, dict):
            raise IntegrityError(f"{path}: expected an object with schema and models")
        known = ("schema", "defaults", "models")
        for name in value:
            if name not in known:
                raise IntegrityError(
                    f"{path}: unknown field {name!r}; the fields are {', '.join(known)}"
                )
        for name in ("schema", "models"):
            if name not in value:
                raise IntegrityError(f"{path}: missing field {name!r}")
        if value["schema"] != SCHEMA:
            raise IntegrityError(
                f"{path}: schema {value['schema']!r} is not supported; this strzoo reads {SCHEMA}"
            )
        models, defaults = value["models"], value.get("defaults", {})
        if not isinstance(models, list) or not isinstance(defaults, dict):
            raise IntegrityError(f"{path}: models must be a list and defaults an object")
        return cls(models, defaults)


def _check_distinct(cards: Iterable[ModelCard], where: str) -> None:
    seen: set[str] = set()
    for card in cards:
        if card.id in seen:
            raise IntegrityError(f"{where}: duplicate id {card.id!r}")
        seen.add(card.id)


def load_registry(settings: Settings | None = None) -> Registry:
    """The published models and those of the user's own registry files in `settings`.

    Raises:
        StrzooError, IntegrityError: as `read_registry`; an id in two files is a duplicate.
    """
    settings = settings or Settings.from_env()
    cards = list(read_registry(data_path("checkpoints.json")))
    for path in settings.registries:
        cards += read_registry(path)
        _check_distinct(cards, str(path))
    return Registry(tuple(cards))


@checked
def list_models(pattern: str = "*", *, settings: Settings | None = None) -> list[str]:
    """Ids of the models that the registry has, in published order.

    Args:
        pattern: a glob over ids.
        settings: cache folder and registries; from the environment by default.

    Returns:
        The ids; [] if none matches.
    """
    return fnmatch.filter(load_registry(settings).ids, pattern)


@checked
def get_card(name: str, *, settings: Settings | None = None) -> ModelCard:
    """The card of the model that `name` means.

    Args:
        name: an id, its Python spelling or a unique prefix.
        settings: cache folder and registries; from the environment by default.

    Returns:
        What is published about the model.

    Raises:
        UnknownNameError: no model or several match; the nearest are listed.
    """
    return load_registry(settings).get(name)
