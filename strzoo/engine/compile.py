"""compile: any network as a `SparseModel`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from strzoo.arguments import checked
from strzoo.engine.frontend.network import spell_size
from strzoo.engine.hardware import check_threads, default_threads, level_hardware
from strzoo.engine.requirement import expect_llvmlite
from strzoo.errors import UsageError
from strzoo.hub.graph_sources import OnnxSource, PlanSource
from strzoo.hub.resolve import Model, resolve
from strzoo.settings import Settings

if TYPE_CHECKING:
    import numpy as np

    from strzoo.data.calibration import Images
    from strzoo.engine.runtime.model import SparseModel

PRECISIONS, ISLANDS = ("fp32", "int16", "int8"), ("auto", "missing", "none")
log = logging.getLogger(__name__)


@checked
def compile(
    model: Model,
    threads: int | None = None,
    batch: int | None = None,
    *,
    size: int | tuple[int, ...] | None = None,
    lanes: int | None = None,
    tune: float = 0.0,
    precision: str = "fp32",
    calibration: Images | np.ndarray | None = None,
    tolerance: float | None = None,
    cache: bool = True,
    cpu: str | None = None,
    native: bool = False,
    islands: str = "auto",
    settings: Settings | None = None,
    on_step: Callable[[str], object] = log.info,
) -> SparseModel:
    """Compile `model` for this processor; zero weights cost no time.

    The result is called with images [N, C, H, W] of any N and returns the network's output in fp32.
    Plans and machine code are kept in the cache folder and found there again by content.

    Args:
        model: a model id, a checkpoint file, an ONNX file, its bytes or an `onnx.ModelProto`, a
            torch network (BatchNorm as in evaluation mode), or a `.strz` file. A `SparseModel` is
            given back.
        threads: that a call uses; by default all cores that this process may use, or what a
            `.strz` file was made for.
        batch: the batch size to be fast at; any other works too.
        size: side, (height, width) or (channels, height, width) of the images, where the model
            leaves it open; by default what it was made for. An ONNX file that leaves it open is
            compiled for each size when it is first called with such images, in fp32.
        lanes: images of a batch that go side by side in a vector, a power of two up to its width;
            by default 1: pixels fill the vectors, which measured best where it was tried.
        tune: seconds to spend on measuring how each layer runs best; 0 goes by fixed rules.
        precision: "fp32"; "int16": 16-bit fixed point, twice as many pixels in a vector; or "int8",
            for weights that are zero in blocks of four input channels (`sparsify_(model,
            block=4)`); both for the convolutions where that pays (docs/engine.md). The report says
            how the results agree with fp32.
        calibration: images that int16 and int8 are fitted to: a folder, "photographs" or "digits"
            (bundled), an `ImageSet`, or inputs of the network, float32 [N, C, H, W]. By default the
            bundled ones.
        tolerance: the largest relative error (root mean square) that a layer may add in int16 and
            int8; layers that would add more stay in fp32. By default 0.01, in int8 0.05.
        cache: whether to use the cache folder.
        cpu: plan for all processors of a level, "x86-64-v2", "x86-64-v3" or "x86-64-v4", instead
            of this one, so that a `.strz` file runs on any of them; "level" is the highest that
            this processor has.
        native: whether you trust a `.strz` file: machine code in it is run, if it is for this
            processor, and llvmlite is not needed.
        islands: what onnxruntime may run: "auto", whatever the engine lacks or would not make
            faster, all of the network if need be; "missing", only what the engine lacks; "none",
            nothing: such a network is an error that lists the operators.
        settings: cache folder, registries, network switches; from the environment by default.
        on_step: called with one line that says what happens next.

    Returns:
        The compiled model.

    Raises:
        UsageError: an argument is not valid; or the network has operators that the engine lacks
            (all of them are listed) and `islands` is "none" or `precision` not "fp32".
        StrzooError: llvmlite is not installed, or the file cannot be read.
        IntegrityError: a file is damaged, or a `.strz` file is for another processor or version.
        UnknownNameError, OfflineError, NetworkError: as `strzoo.load`.
    """
    check_threads(threads)
    _check("batch", batch)
    _check("lanes", lanes)
    if islands not in ISLANDS:
        raise UsageError(f"islands is {islands!r}; it must be one of {', '.join(ISLANDS)}")
    _check_precision(precision, calibration, tolerance, lanes)
    if not (math.isfinite(tune) and tune >= 0):
        raise UsageError(f"tune is {tune}; it must be a number of seconds, 0 for fixed rules")
    wanted = spell_size(size)
    started = time.perf_counter()
    source = resolve(model, settings=settings)
    folder = source.settings.cache_dir / "engine" if cache else None
    if isinstance(source, PlanSource):
        late = {"the precision": precision != "fp32", "tune": tune, "cpu": cpu, "lanes": lanes,
                "islands": islands != "auto"}  # fmt: skip
        if named := [name for name, value in late.items() if value]:
            raise UsageError(
                f"{source.shown} is compiled already; give {named[0]} when compiling the model"
            )
        return _open(source, wanted, threads, batch or 1, folder, native, started)
    if native:
        raise UsageError(
            f"native is for .strz files, and {source.shown} is {source.described}; machine code is "
            "put into a file by SparseModel.save(path, native=True)"
        )
    expect_llvmlite()
    from strzoo.engine.frontend.network import open_network
    from strzoo.engine.frontend.problems import OpenSizeError
    from strzoo.engine.pipeline import NetworkBuilder
    from strzoo.engine.quantization.calibration import TOLERANCES, Precision
    from strzoo.engine.runtime.model import SparseModel
    from strzoo.engine.storage.host import known_hardware

    hardware = known_hardware(folder) if cpu is None else level_hardware(cpu)
    if lanes is not None and (lanes & (lanes - 1) or lanes > hardware.lanes):
        raise UsageError(
            f"lanes is {lanes}; it must be a power of two up to {hardware.lanes}, the floats that "
            "a vector has here"
        )
    if precision == "int16" and not hardware.fixed:
        raise UsageError("this processor lacks the instructions for int16; compile in fp32")
    if precision == "int8" and not hardware.quads:
        raise UsageError(
            "int8 needs dot products of 8 bits (AVX512-VNNI or AVX-VNNI), which "
            + (f"not every {cpu} has" if cpu else "this processor lacks")
            + "; compile in int16 or fp32"
        )
    count = threads or default_threads()
    chosen = None
    if precision != "fp32":
        most = TOLERANCES[precision] if tolerance is None else tolerance
        chosen = Precision(precision, calibration, most)

    def make(wanted: tuple[int, ...] | None, started: float | None = None) -> SparseModel:
        network = open_network(source, wanted, on_step)
        builder = NetworkBuilder(
            network, hardware, lanes or 1, count, tune, chosen, folder, on_step, islands
        )
        return SparseModel(builder, batch or 1, started=started)

    try:
        return make(wanted, started)
    except OpenSizeError as problem:
        if wanted is not None or chosen is not None or not isinstance(source, OnnxSource):
            raise
        from strzoo.engine.frontend.inputs import read_ports
        from strzoo.engine.open_sizes import OpenModel
        from strzoo.onnx.metadata import our_entries

        inputs, outputs = read_ports(source.read())
        facts = (source.name, source.sha256, dict(our_entries(source.read())), count)
        return OpenModel(*facts, inputs, outputs, make, str(problem))


def _open(
    source: PlanSource,
    size: tuple[int, ...] | None,
    threads: int | None,
    batch: int,
    folder: Path | None,
    native: bool,
    started: float,
) -> SparseModel:
    """A model from a file, or a compiled one as it is."""
    from strzoo.engine.runtime.model import SparseModel
    from strzoo.engine.runtime.plan_files import PlanFileBuilder

    if isinstance(source.compiled, SparseModel):
        return _keep(source.compiled, size, threads)
    assert source.path is not None
    builder = PlanFileBuilder.open(source.path, size, threads, folder, native=native)
    return SparseModel(builder, batch, started=started)


def _check_precision(
    precision: str, calibration: object, tolerance: float | None, lanes: int | None
) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
    if precision == "fp32" and (calibration is not None or tolerance is not None):
        raise UsageError("calibration and tolerance are for precision int16 and int8")
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance > 0):
        raise UsageError(f"tolerance is {tolerance}; it must be a positive number, such as 0.01")
    if precision != "fp32" and lanes not in (None, 1):
        raise UsageError(f"lanes is {lanes}; in {precision} a vector holds pixels of one image")


def _keep(model: SparseModel, size: tuple[int, ...] | None, threads: int | None) -> SparseModel:
    """A compiled model as it is, if that is what is asked for."""
    own = model.input_shape
    if size is not None and size != own[-len(size) :]:
        asked, made = (f"images of {'x'.join(map(str, shape))}" for shape in (size, own))
    elif threads is not None and threads != model.threads:
        asked, made = f"{threads} threads", f"{model.threads}"
    else:
        return model
    raise UsageError(
        f"{model.name} was compiled for {made}, {asked} is asked for; compile the model again"
    )


def _check(name: str, value: int | None) -> None:
    if value is not None and (type(value) is not int or value < 1):
        raise UsageError(f"{name} is {value!r}; it must be a whole number, at least 1")
