"""Families of networks that are not of images: recognised here, known to a module above the hub.

A family is told by what its files and classes are marked by, without reading them. Its module is
imported when such a model comes, and has the class `FAMILY_SOURCE`, a `FamilySource`, which
answers for the commands that take these models.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strzoo.borders import open_file
from strzoo.errors import IntegrityError, UsageError
from strzoo.hub.hashes import hash_tensors, read_hash
from strzoo.hub.source import ImageSize, Source
from strzoo.settings import Settings
from strzoo.zoo.registry import Preprocessing

if TYPE_CHECKING:
    from torch import nn

    from strzoo.checkpoint.convert import Conversion
    from strzoo.onnx.results import OnnxExport

_HEAD = 1 << 20  # bytes; the names of a file's tensors stand before their values


@dataclass(frozen=True)
class Family:
    """What marks the models of a family.

    `package` holds its classes; `home` is the module with its source. A file has all of `names` in
    its first megabyte; a folder has a file that one of `files` (patterns) matches.
    """

    package: str
    home: str
    names: tuple[bytes, ...]
    files: tuple[str, ...]

    def has_file(self, path: Path) -> bool:
        """Whether `path` looks like a file or a folder of the family."""
        try:
            if path.is_dir():
                return any(any(path.glob(pattern)) for pattern in self.files)
            if not path.is_file():
                return False
            with open_file(path) as stream:
                head = stream.read(_HEAD)
        except (OSError, IntegrityError):
            return False  # the reader says what is wrong
        return all(name in head for name in self.names)

    def has_class(self, network: nn.Module) -> bool:
        """Whether `network` is of a class of the family, or of one derived from it."""
        return any(one.__module__.startswith(f"{self.package}.") for one in type(network).__mro__)


FAMILIES = (
    Family(
        package="strzoo.rnn",
        home="strzoo.rnn.source",
        names=(b"bias_gate", b"bias_update"),
        files=("Bg.npy", "rank_*.pth"),
    ),
)


class FamilySource(Source):
    """A model of a family: a file, a folder, or a network in memory.

    Commands for images refuse it with `wanted`, which says what to use instead.
    """

    kind = "family"

    def __init__(
        self, settings: Settings, *, path: Path | None = None, network: nn.Module | None = None
    ) -> None:
        super().__init__(path.name if path else type(network).__name__, settings)
        self._file, self._network = path, network

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The network, in evaluation mode if it is from a file; of a file it is read once."""

    @abstractmethod
    def report(self, input_size: tuple[int, ...] | int | None) -> Any:
        """The `strzoo.analysis.results.Report`, for that size or the network's own."""

    @abstractmethod
    def convert(self, destination: Path, *, verify: bool, force: bool) -> Conversion:
        """Write the network with plain layers, as the family's own file."""

    @abstractmethod
    def export(self, path: Path, *, precision: str, opset: int, force: bool) -> OnnxExport:
        """Write the network as an ONNX file, checked against torch."""

    @property
    def path(self) -> Path | None:
        return self._file

    @property
    def sha256(self) -> str:
        if self._file is None or self._file.is_dir():
            return hash_tensors(self.network.state_dict())
        return read_hash(self._file)

    @property
    def input_size(self) -> ImageSize:
        raise self._refusal()

    @property
    def preprocessing(self) -> Preprocessing:
        raise self._refusal()

    def build_network(self, format: str | None = None) -> nn.Module:
        return self.network

    def build_dense(self) -> nn.Module:
        raise self._refusal()

    def refuse(self, **given: Any) -> None:
        """A UsageError if one of these arguments, which are for images, is given."""
        for name, value in given.items():
            if value not in (None, False):
                raise UsageError(
                    f"{self.name} is {self.described}: {name.replace('_', ' ')} is not for it; "
                    f"{self.wanted}"
                )

    def _refusal(self) -> UsageError:
        return UsageError(f"{self.name} is {self.described}; {self.wanted}")


def open_family(
    settings: Settings, *, path: Path | None = None, network: nn.Module | None = None
) -> FamilySource | None:
    """The source of a file, a folder or a network that is of a family; None for all others."""
    if network is not None:
        from strzoo.sparse.unwrap import unwrap

        network = unwrap(network)
    for family in FAMILIES:
        of_file = path is not None and family.has_file(path)
        if of_file or (network is not None and family.has_class(network)):
            made: type[FamilySource] = importlib.import_module(family.home).FAMILY_SOURCE
            return made(settings, path=path, network=network)
    return None
