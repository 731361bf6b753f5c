"""OpenModel: a network of open height and width, compiled for each size that it is given."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from strzoo.engine.ir.graph import Shape
from strzoo.engine.ir.parts import Port
from strzoo.engine.results import CompileReport
from strzoo.engine.runtime.arrays import accept
from strzoo.engine.runtime.model import SparseModel
from strzoo.errors import UsageError

MOST_SIZES = 8  # whose plans are kept at a time
Size = tuple[int, int]


class OpenModel(SparseModel):
    """A `SparseModel` for images of any height and width.

    The first call with images of a size compiles for it; the plans of the last eight sizes are
    kept. What needs one size, such as `save`, is an error that says so.

    Args:
        name: of the network, for people.
        source: SHA-256 of the file, or the bytes, that it comes from.
        metadata: what an ONNX export says about itself.
        threads: that one call uses.
        inputs, outputs: of the network, None where a size is open.
        make: compiles for a height and width.
        problem: why there is no single size.
    """

    def __init__(
        self,
        name: str,
        source: str,
        metadata: dict[str, str],
        threads: int,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        make: Callable[[Size], SparseModel],
        problem: str,
    ) -> None:
        self._name, self._source, self._metadata = name, source, metadata
        self._count, self._make, self._problem = threads, make, problem
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._lock = threading.Lock()
        self._models: OrderedDict[Size, SparseModel] = OrderedDict()
        self._making: dict[Size, threading.Lock] = {}

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Height and width of the images for which plans are kept, the latest last."""
        return tuple(self._models)

    @property
    def threads(self) -> int:
        return self._count

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self._metadata)

    @property
    def source_sha256(self) -> str:
        return self._source

    @property
    def name(self) -> str:
        return self._name

    @property
    def input_shape(self) -> Shape:
        return self._refuse()

    @property
    def output_shape(self) -> Shape:
        return self._refuse()

    @property
    def report(self) -> CompileReport:
        return self._refuse()

    def strzoo_source(self, settings: Any) -> Any:
        return self._refuse()

    def describe(self) -> str:
        return self._refuse()

    def save(self, path: Any, *, force: bool = False, native: bool = False) -> Any:
        return self._refuse()

    def __reduce__(self) -> tuple[Any, ...]:
        return self._refuse()

    def __repr__(self) -> str:
        sizes = ", ".join("x".join(map(str, size)) for size in self._models) or "none so far"
        return f"<OpenModel {self._name}: plans for {sizes}, {self._count} threads>"

    def __call__(self, *images: Any) -> Any:
        arrays, _ = accept(self._inputs, images)
        return self._find(self._read_size(arrays))(*images)

    def _read_size(self, arrays: Sequence[np.ndarray]) -> Size:
        """Of the first images whose size is open."""
        for port, array in zip(self._inputs, arrays, strict=True):
            if array.ndim == 4 and None in port.shape[2:]:
                return array.shape[2], array.shape[3]
        return self._refuse()

    def _find(self, size: Size) -> SparseModel:
        with self._lock:
            if size in self._models:
                self._models.move_to_end(size)
                return self._models[size]
            making = self._making.setdefault(size, threading.Lock())
        with making:  # calls with images of other sizes go on
            with self._lock:
                if size in self._models:
                    return self._models[size]
            made: SparseModel | None = None
            try:
                made = self._make(size)
                return made
            finally:
                with self._lock:
                    self._making.pop(size, None)
                    if made is not None:
                        self._models[size] = made
                    while len(self._models) > MOST_SIZES:
                        self._models.popitem(last=False)

    def _refuse(self) -> NoReturn:
        raise UsageError(self._problem)
