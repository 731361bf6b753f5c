"""benchmark: latency, throughput and memory of models on several engines, interleaved."""

from __future__ import annotations

import copy
import logging
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from strzoo.analysis.counting import prunable_layers
from strzoo.analysis.inspect_onnx import inspect_onnx
from strzoo.arguments import checked
from strzoo.benchmarking.engines import (
    INT8_ENGINES,
    ONNX_ENGINES,
    available_engines,
    check_engine,
    open_engine,
)
from strzoo.benchmarking.int8_files import write_int8
from strzoo.benchmarking.memory import peak_memory
from strzoo.benchmarking.results import BenchmarkResult, Timing, judge, spell_verdicts
from strzoo.benchmarking.timing import AGREES, check_agreement, time_in_turn, warm_up
from strzoo.engine.hardware import check_threads
from strzoo.errors import StrzooError, UsageError
from strzoo.export.export_onnx import export_onnx
from strzoo.files import hide_temporary
from strzoo.hub.graph_sources import OnnxSource, PlanSource
from strzoo.hub.resolve import Model, resolve
from strzoo.hub.source import Source
from strzoo.onnx.files import read_onnx
from strzoo.onnx.tensors import decode_tensor
from strzoo.onnx.weights import Constants, is_layer, weight_input
from strzoo.settings import Settings

log = logging.getLogger(__name__)

# How far engines of lower precision may be from the first, relative to the largest output: an
# untrained network amplifies errors.
_ALLOWED = {"int16": 0.1, "bf16": 0.2, "int8": 1.0}


@dataclass
class _Subject:
    """A model as each kind of engine takes it, and its dense twin: the zeros filled.

    A compiled one is a `.strz` file alone, for the sparse engine.
    """

    name: str
    sparsity: float
    input_size: tuple[int, ...]
    onnx_file: Path | None = None
    onnx_twin: Path | None = None
    int8_file: Path | None = None
    int8_twin: Path | None = None
    network: nn.Module | None = None
    network_twin: nn.Module | None = None
    checkpoint: Path | None = None
    plan: Path | None = None

    def take(self, engine: str, *, twin: bool) -> Any:
        if self.plan is not None:
            return self.plan if engine == "sparse" and not twin else None
        if engine in INT8_ENGINES:
            return self.int8_twin if twin else self.int8_file
        if engine in ONNX_ENGINES:
            return self.onnx_twin if twin else self.onnx_file
        return self.network_twin if twin else self.network

    def file_bytes(self, engine: str) -> int | None:
        path = self.checkpoint
        if engine in ONNX_ENGINES:
            path = self.int8_file if engine in INT8_ENGINES else self.plan or self.onnx_file
        return path.stat().st_size if path and path.exists() else None


@checked
def benchmark(
    models: Sequence[Model] | Model,
    *,
    engines: Sequence[str] | None = None,
    batches: Sequence[int] = (1,),
    threads: int | None = None,
    runs: int = 30,
    input_size: tuple[int, ...] | None = None,
    memory: bool = True,
    settings: Settings | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> BenchmarkResult:
    """Time `models` on `engines`, one run of each in turn, so that a slow spell hits all alike.

    Beside each model its dense twin (the same network with the zeros filled by small values) is
    timed on the same engine, which shows what the zeros buy there.

    Args:
        models: model ids, checkpoint files, `Checkpoint`s, networks, ONNX files (for the engines
            that read ONNX), and what is compiled: `SparseModel`s and `.strz` files, for the sparse
            engine alone, without a dense twin.
        engines: of "torch", "torch-compile", "onnxruntime", "onnxruntime-int8", "openvino",
            "openvino-bf16" and "openvino-int8" (strzoo[openvino]), "sparse", "sparse-int16" and
            "sparse-int8" (strzoo[engine]); by default torch, onnxruntime and sparse if it is there.
            What is in int8 or int16 is calibrated on the bundled images.
        batches: batch sizes.
        threads: by default torch's number of threads.
        runs: timed runs of each, after three untimed ones.
        input_size: channels, height, width; by default what each network was made for.
        memory: also measure peak memory, each in a process of its own.
        settings: cache folder, registries, network switches; from the environment by default.
        progress: called with the runs done and their number.

    Returns:
        A row per model, engine and batch size; latencies in milliseconds, sizes in bytes.

    Raises:
        UsageError: an unknown engine, no models, a value that is not positive.
        StrzooError: an engine is not installed or cannot run a model.
        VerificationError: two engines disagree about a model's output.
    """
    given: list[Model] = list(models) if isinstance(models, list | tuple) else [models]  # type: ignore[list-item]
    optional = () if engines else ("sparse",)
    engines = tuple(dict.fromkeys(engines or available_engines()))
    for engine in engines:
        check_engine(engine)
    threads = torch.get_num_threads() if threads is None else threads
    check_threads(threads)
    if not given or runs < 1 or not batches or min(batches) < 1:
        raise UsageError("models, batches and runs must be at least 1")
    sources = [resolve(model, settings=settings) for model in given]
    for source in sources:
        if isinstance(source, OnnxSource) and not set(engines) & set(ONNX_ENGINES):
            raise UsageError(
                f"{source.shown} is {source.described} and none of the engines reads ONNX; add "
                "onnxruntime"
            )
        if isinstance(source, PlanSource) and "sparse" not in engines:
            raise UsageError(
                f"{source.shown} is {source.described}: the engine sparse must be among the engines"
            )
    timings: list[Timing] = []
    with tempfile.TemporaryDirectory(prefix="strzoo-") as folder, torch_threads(threads):
        subjects = [
            _prepare(source, Path(folder) / str(index), input_size, engines)
            for index, source in enumerate(sources)
        ]
        for source, subject in zip(sources, subjects, strict=True):
            left = [engine for engine in engines if subject.take(engine, twin=False) is None]
            if left:
                log.warning("%s is %s: not for %s", source.shown, source.described, ", ".join(left))
        total = len(batches) * runs
        for index, batch in enumerate(batches):
            timings += _time_batch(
                subjects,
                engines,
                batch,
                threads,
                runs,
                memory,
                optional,
                _shifted(progress, index * runs, total),
            )
    return BenchmarkResult(
        timings=tuple(timings),
        threads=threads,
        machine=describe_machine(),
        versions={
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
        },
        verdicts=tuple(spell_verdicts(timings)),
    )


def _prepare(
    source: Source, folder: Path, input_size: tuple[int, ...] | None, engines: Sequence[str]
) -> _Subject:
    """Export the model (checked against torch) and make both dense twins, and what engines need in
    int8."""
    folder.mkdir()
    network = twin = checkpoint = None
    if isinstance(source, PlanSource):
        return _prepare_plan(source, folder, input_size)
    if isinstance(source, OnnxSource):
        file = source.path or folder / "model.onnx"
        if source.path is None:
            onnx.save(source.read(), str(file))
        report = inspect_onnx(source, input_size=input_size).report
        name, size = file.name if source.path else source.name, report.input_size
    else:
        network = source.build_dense()
        file, name, size = folder / "model.onnx", source.name, input_size or source.input_size
        try:
            export_onnx(network, file, input_size=size)
        except StrzooError as error:  # a temporary path says nothing to the user
            hide_temporary(error, file, Path(name))
            raise
        report = inspect_onnx(file).report
        checkpoint, twin = source.path, _fill_network(network)
    filled = _fill_graph(read_onnx(file))
    onnx.save(filled, str(folder / "twin.onnx"))
    sparsity = report.sparsity or 0.0
    int8 = int8_twin = None
    if set(engines) & set(INT8_ENGINES):
        int8 = write_int8(file, folder / "int8.onnx", size)
        if sparsity:
            int8_twin = write_int8(folder / "twin.onnx", folder / "twin_int8.onnx", size)
    return _Subject(
        name, sparsity, size, file, folder / "twin.onnx", int8, int8_twin, network, twin, checkpoint
    )


def _prepare_plan(source: PlanSource, folder: Path, input_size: tuple[int, ...] | None) -> _Subject:
    from strzoo.engine.compile import compile

    compiled = compile(source, size=input_size, cache=False)  # refuses a size of another
    plan = source.path or compiled.save(folder / "model.strz")
    return _Subject(source.name, compiled.report.sparsity, compiled.input_shape, plan=plan)


def _fill_network(network: nn.Module) -> nn.Module:
    filled = copy.deepcopy(network)
    for layer in prunable_layers(filled).values():
        weight = layer.weight
        assert isinstance(weight, Tensor)
        with torch.no_grad():
            weight.copy_(torch.from_numpy(_fill(weight.numpy())))
    return filled


def _fill_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with no zeros in its weights; tables of indices and masks stay as they are."""
    constants = Constants(model.graph)
    found = (constants.find(weight_input(node)) for node in model.graph.node if is_layer(node))
    weights = {origin for _, _, origin in filter(None, found)}
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1 and tensor.name in weights:
            array = decode_tensor(tensor)
            if array.dtype.kind == "f" or array.dtype == np.int8:
                tensor.CopyFrom(numpy_helper.from_array(_fill(array), tensor.name))
    return model


def _fill(weight: np.ndarray) -> np.ndarray:
    """`weight` with its zeros replaced by values too small to matter, and no subnormals."""
    if weight.dtype.kind == "i":
        return np.where(weight == 0, np.ones_like(weight), weight)
    small = max(float(np.abs(weight).max()) * 1e-3, 1e-4)
    return np.where(weight == 0, np.asarray(small, weight.dtype), weight)


def _time_batch(
    subjects: list[_Subject],
    engines: tuple[str, ...],
    batch: int,
    threads: int,
    runs: int,
    memory: bool,
    optional: Sequence[str],
    progress: Callable[[int], object],
) -> list[Timing]:
    """All pairs of model and engine at one batch size, and their twins, in turn."""
    runners: dict[tuple[int, str, bool], Callable[[], np.ndarray]] = {}
    for index, subject in enumerate(subjects):
        shape = (batch, *subject.input_size)
        wanted = [(e, t) for e in engines for t in (False, True) if t is False or subject.sparsity]
        wanted += [("onnxruntime", True)]  # what ratios refer to, where there is a twin
        for engine, twin in dict.fromkeys(wanted):
            model = subject.take(engine, twin=twin)
            if model is None:
                continue
            try:
                runners[index, engine, twin] = open_engine(engine, model, shape, threads)
            except UsageError as error:
                # An export's own path is a temporary one that says nothing to the user.
                problem = str(error).replace(str(subject.onnx_file), subject.name)
                if engine not in optional:
                    raise UsageError(problem) from error
                if not twin:  # of the twin it would say the same
                    log.warning("%s is left out: %s", engine, problem)
    reference: dict[tuple[int, str], np.ndarray] = {}
    for (index, engine, twin), run in sorted(
        runners.items(), key=lambda item: _allowed(item[0][1])
    ):
        name = subjects[index].name
        output = warm_up(run, f"{engine} cannot run {name} at batch {batch}")
        # A twin's zeros are filled after folding BatchNorm in the file, before it in torch.
        kind = "model" if not twin else "twin file" if engine in ONNX_ENGINES else "twin"
        expected = reference.setdefault((index, kind), output)
        what = f"{name}: {engine} differs from the other engines"
        check_agreement(output, expected, what, _allowed(engine))
    times = time_in_turn(runners, runs, progress)
    runners.clear()  # before the processes that measure memory start
    rows = []
    for (index, engine, twin), measured in times.items():
        if twin or engine not in engines:
            continue
        subject = subjects[index]
        median = float(np.median(measured))
        sparse, dense = subject.sparsity > 0, times.get((index, engine, True))
        twin_times = times.get((index, "onnxruntime", True))
        reference_median = None if twin_times is None else float(np.median(twin_times))
        shape = (batch, *subject.input_size)
        model = subject.take(engine, twin=False)
        rows.append(
            Timing(
                model=subject.name,
                engine=engine,
                batch=batch,
                runs=runs,
                sparsity=subject.sparsity,
                p50=median,
                p90=float(np.percentile(measured, 90)),
                p99=float(np.percentile(measured, 99)),
                fastest=min(measured),
                images_per_second=1000 * batch / median,
                dense_onnxruntime=reference_median,
                ratio=None if reference_median is None else reference_median / median,
                gain=float(np.median(dense)) / median if sparse and dense else None,
                verdict=judge(measured, dense) if sparse and dense else None,
                peak_memory=peak_memory(engine, model, shape, threads) if memory else None,
                file_bytes=subject.file_bytes(engine),
                latencies=tuple(measured),
            )
        )
    return rows


def _allowed(engine: str) -> float:
    """How far an engine may be from the first, relative to the largest output."""
    return _ALLOWED.get(engine.partition("-")[2], AGREES)


def _shifted(
    progress: Callable[[int, int], object], base: int, total: int
) -> Callable[[int], object]:
    return lambda done: progress(base + done, total)


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """So many threads of torch within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe_machine() -> str:
    """Processor, number of cores and system."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        name = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"
