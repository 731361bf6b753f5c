""".strz files: what is loaded computes the same, and nothing else is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import strzoo
from strzoo.engine.codegen.operands import row_operands
from strzoo.engine.hardware import Hardware, host_hardware
from strzoo.engine.storage import plan_files
from strzoo.engine.storage.native_code import can_link
from strzoo.engine.storage.plan_files import PlanFile, read_plans, write_plans
from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.settings import Settings
from tests.helpers.engine.models import images
from tests.helpers.engine.networks import load_model
from tests.helpers.runs import run_program

IMAGE = (3, 32, 32)


@pytest.fixture(scope="module")
def compiled(shared: Settings) -> strzoo.SparseModel:
    return strzoo.compile(load_model("small", 32), threads=2, settings=shared)


@pytest.fixture(scope="module")
def file(compiled: strzoo.SparseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled.save(tmp_path_factory.mktemp("plans") / "small.strz")


def load(path: Path, shared: Settings, **options: Any) -> strzoo.SparseModel:
    return strzoo.compile(path, settings=shared, **options)


def test_a_saved_model_computes_the_same_bits_and_reports_the_same(
    compiled: strzoo.SparseModel, file: Path, shared: Settings
) -> None:
    loaded = load(file, shared)
    x = images(IMAGE, 5)
    assert np.array_equal(loaded(x), compiled(x))
    assert np.array_equal(loaded(x[:1]), compiled(x[:1]))
    assert (loaded.threads, loaded.metadata) == (2, compiled.metadata)
    assert loaded.report.layers == compiled.report.layers
    assert loaded.source_sha256 == compiled.source_sha256
    # A tenth of 84,000 weights, with their places, for both ways to run; no dense weights.
    assert file.stat().st_size < 84_000 * 4
    one = load(file, shared, threads=1)
    assert np.abs(one(x) - compiled(x)).max() < 1e-4 * np.abs(x).max()


def test_a_copy_of_a_loaded_model_is_the_same_file(file: Path, shared: Settings) -> None:
    copy = load(file, shared).save(file.with_name("copy.strz"), force=True)
    assert copy.read_bytes() == file.read_bytes()


def test_an_existing_file_and_other_names_are_not_written(
    compiled: strzoo.SparseModel, file: Path
) -> None:
    before = file.read_bytes()
    with pytest.raises(StrzooError, match="exists; pass --force"):
        compiled.save(file)
    with pytest.raises(UsageError, match=r"must end in \.strz"):
        compiled.save(file.with_suffix(".bin"))
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda b: b[:-100], r"is damaged: it holds \d+ bytes of \d+; compile the model again"),
        (lambda b: b[:20000] + bytes([b[20000] ^ 1]) + b[20001:], "another SHA-256"),
        (lambda b: b[:100] + b"x" + b[101:], "another SHA-256"),
        (lambda b: b"", "is not a compiled strzoo model"),
        (lambda b: b"PK" + b[2:], "is not a compiled strzoo model"),
        (lambda b: b[:8] + b"\x07\0\0\0" + b[12:], "of format 7, this strzoo reads format 1"),
    ],
)
def test_damaged_files_and_other_formats_are_refused(
    damage: Callable[[bytes], bytes],
    problem: str,
    file: Path,
    shared: Settings,
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.strz"
    path.write_bytes(damage(file.read_bytes()))
    with pytest.raises(IntegrityError, match=problem):
        load(path, shared)


def test_files_for_other_processors_and_versions_are_refused(
    file: Path, tmp_path: Path, shared: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = read_plans(file, host_hardware())
    path = tmp_path / "foreign.strz"
    for change in ({"lanes": 2}, {"identity": "riscv64-linux-gnu generic +v"}):
        hardware = dataclasses.replace(content.hardware, **change)
        write_plans(path, dataclasses.replace(content, hardware=hardware), force=True)
        with pytest.raises(IntegrityError, match=r"another processor .* compile the model again"):
            load(path, shared)
    monkeypatch.setattr(plan_files, "VERSION", "0.0.1")
    with pytest.raises(IntegrityError, match=r"was made by strzoo .*, this is 0\.0\.1"):
        load(file, shared)


@pytest.mark.parametrize("whole", [True, False])
def test_more_threads_than_a_call_can_use_are_refused(
    file: Path, tmp_path: Path, shared: Settings, whole: bool
) -> None:
    content = read_plans(file, host_hardware())
    if whole:
        content = dataclasses.replace(content, threads=1025)
    else:
        plans = [dataclasses.replace(entry, threads=1025) for entry in content.plans]
        content = dataclasses.replace(content, plans=tuple(plans))
    write_plans(tmp_path / "many.strz", content, force=True)
    with pytest.raises(IntegrityError, match="1025 instead of a number from 1 to 1024"):
        load(tmp_path / "many.strz", shared)


def change_row(content: PlanFile, field: str, value: int) -> PlanFile:
    """`content` with one number of its first plan's first step that has such a field changed."""
    entry = content.plans[0]
    names = [[o.name for o in row_operands(kernel)] for kernel in entry.plan.kernels]
    step = next(index for index, known in enumerate(names) if field in known)
    rows = entry.plan.rows.copy()
    rows[step, names[step].index(field)] = value
    plan = dataclasses.replace(entry.plan, rows=rows)
    return dataclasses.replace(content, plans=(dataclasses.replace(entry, plan=plan),))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", 1 << 39),
        ("target", -64),
        ("target_plane", 1 << 38),
        ("target_vectors", 1 << 30),
        ("places", 1 << 30),
        ("slab", 1 << 30),
        ("copies", 1 << 30),
        ("copy_ends", 1 << 30),
        ("order", 1 << 30),
        ("weights", 1 << 30),
        ("rows", 1 << 30),
        ("parts", 1 << 20),
        ("entries", 1 << 30),
        ("bias", 1 << 30),
        ("number", 7),
    ],
)
def test_numbers_that_lead_out_of_memory_are_refused(
    field: str, value: int, file: Path, tmp_path: Path
) -> None:
    hardware: Hardware = host_hardware()
    path = tmp_path / "a.strz"
    write_plans(path, change_row(read_plans(file, hardware), field, value))
    with pytest.raises(IntegrityError, match="is not a valid compiled strzoo model"):
        read_plans(path, hardware)


def test_another_size_or_tuning_of_a_file_is_refused(file: Path, shared: Settings) -> None:
    with pytest.raises(UsageError, match="was compiled for images of 3x32x32, 64x64 is asked"):
        load(file, shared, size=64)
    with pytest.raises(UsageError, match="islands when compiling the model"):
        load(file, shared, islands="none")
    with pytest.raises(UsageError, match="tune when compiling the model"):
        load(file, shared, tune=1.0)
    assert load(file, shared, size=32).input_shape == IMAGE


RUN_TRUSTED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("llvmlite", "torch", "onnx", "onnxruntime"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import numpy, strzoo
try:
    strzoo.compile(sys.argv[1])
except strzoo.StrzooError as error:
    assert "pass native=True" in str(error), error
model = strzoo.compile(sys.argv[1], native=True)
numpy.save(sys.argv[3], model(numpy.load(sys.argv[2])))
"""


@pytest.mark.slow
@pytest.mark.skipif(not can_link(), reason="machine code in files is for Linux on x86-64")
def test_machine_code_in_a_file_runs_without_llvmlite_if_the_file_is_trusted(
    shared: Settings, tmp_path: Path
) -> None:
    made = strzoo.compile(load_model("small", 32), threads=1, cpu="level", settings=shared)
    path = made.save(tmp_path / "a.strz", native=True)
    x = images(IMAGE, 3)
    np.save(tmp_path / "x.npy", x)
    assert run_program(RUN_TRUSTED, path, tmp_path / "x.npy", tmp_path / "y.npy") == 0
    assert np.array_equal(np.load(tmp_path / "y.npy"), made(x))
    # Who does not trust the file runs its plans with code that is generated here.
    assert np.array_equal(load(path, shared)(x), made(x))
    with pytest.raises(StrzooError, match="loaded with the machine code of its file"):
        load(path, shared, native=True).save(tmp_path / "b.strz")
