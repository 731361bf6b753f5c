"""Plans are accepted up to the last byte of their memory, and refused from the next one on.

The plans are for images of 4x4 pixels and 16 lanes: a plane is one vector, 64 bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from strzoo.engine.codegen.convolution import ConvolutionKernel
from strzoo.engine.codegen.elementwise import ElementwiseKernel, SoftmaxKernel
from strzoo.engine.codegen.global_pool import GlobalPoolKernel
from strzoo.engine.codegen.linear import LinearKernel
from strzoo.engine.codegen.operands import row_operands
from strzoo.engine.codegen.packing import PackKernel, UnpackKernel
from strzoo.engine.codegen.permuting import PermuteKernel
from strzoo.engine.codegen.windows import DepthwiseKernel, PoolKernel
from strzoo.engine.hardware import Hardware
from strzoo.engine.ir.graph import (
    Affine,
    Convolution,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Softmax,
    Window,
)
from strzoo.engine.ir.quads import DequantizeQuads, QuadConvolution, QuantizeQuads
from strzoo.engine.layout.tiling import Tiling
from strzoo.engine.lowering.instructions import number_rows
from strzoo.engine.lowering.plan import Plan
from strzoo.engine.storage.plan_checks import check_plan
from tests.helpers.engine.building import chain
from tests.helpers.engine.plans import make_plan

HARDWARE = Hardware(16, 32)
PADS = (1, 1, 1, 1)


def corner(rows: int, inputs: int, *window: int) -> np.ndarray:
    """Weights of which only the last of each row is not zero."""
    weight = np.zeros((rows, inputs, *window), np.float32)
    weight.reshape(rows, -1)[:, -1] = 1
    return weight


def zeros(count: int) -> np.ndarray:
    return np.zeros(count, np.float32)


def make(*layers: Layer, channels: int = 3, **tilings: Tiling) -> Plan:
    return make_plan(chain(*layers, shape=(channels, 4, 4)), HARDWARE, tilings=tilings)


HEAD = make(
    GlobalAveragePool("mean", ("x",), "mean", flat=True),
    # The last nine of ten rows: a denser layer would run dense.
    Linear(
        "head", ("mean",), "head", np.concatenate([np.zeros((1, 3), "f4"), corner(9, 3)]), zeros(10)
    ),
    Softmax("soft", ("head",), "soft"),
)
BODY = make(
    Convolution("a", ("x",), "a", corner(3, 3, 1, 1), zeros(3), Window((1, 1))),
    Convolution("b", ("a", "x"), "b", corner(3, 3, 3, 3), zeros(3), Window((3, 3), pads=PADS)),
    Convolution(
        "c", ("b",), "c", np.ones((3, 1, 3, 3), np.float32), zeros(3), Window((3, 3), pads=PADS), 3
    ),
    MaxPool("d", ("c",), "d", Window((3, 3), pads=PADS)),
    Affine("e", ("d",), "e", zeros(3), zeros(3)),
    Convolution("f", ("e",), "f", corner(2, 3, 1, 1), zeros(2), Window((1, 1))),
    f=Tiling(1, 3),
)
DENSE = make(
    Convolution("a", ("x",), "a", np.ones((4, 3, 3, 3), "f4"), zeros(4), Window((3, 3), pads=PADS)),
    a=Tiling(1, 1, 4),
)
QUADS = make(
    QuantizeQuads("q", ("x",), "q", scale=1.0, zero=0),
    QuadConvolution(
        "a", ("q",), "a", corner(8, 3, 1, 1).astype("i1"), np.zeros(8, "i4"), Window((1, 1)),
        scales=zeros(8),
    ),
    DequantizeQuads("y", ("a",), "y", scale=1.0, zero=0),
)  # fmt: skip
# A window in steps of two over 14x14 pixels: they are copied by whole vectors.
COPY = make_plan(
    chain(
        Convolution("a", ("x",), "a", corner(3, 3, 1, 1), zeros(3), Window((1, 1))),
        Convolution("b", ("a",), "b", corner(3, 3, 3, 3), zeros(3), Window((3, 3), (2, 2), PADS)),
        shape=(3, 14, 14),
    ),
    HARDWARE,
)
PLANS = {"head": HEAD, "body": BODY, "dense": DENSE, "quads": QUADS, "copy": COPY}


def find(plan: Plan, kind: type, nth: int = 0) -> int:
    return [i for i, kernel in enumerate(plan.kernels) if isinstance(kernel, kind)][nth]


def change(plan: Plan, index: int, field: str, value: int) -> Plan:
    rows = plan.rows.copy()
    names = [operand.name for operand in row_operands(plan.kernels[index])]
    rows[index, names.index(field)] = value
    return dataclasses.replace(plan, rows=rows)


def value(plan: Plan, index: int, field: str) -> int:
    names = [operand.name for operand in row_operands(plan.kernels[index])]
    return int(plan.rows[index, names.index(field)])


def change_table(plan: Plan, index: int, field: str, item: int, new: int, kind: str) -> Plan:
    constants = plan.constants.copy()
    size = np.dtype(kind).itemsize
    start = value(plan, index, field) + size * item
    constants[start : start + size].view(kind)[0] = new
    return dataclasses.replace(plan, constants=constants)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_plans_that_the_compiler_makes_are_accepted(plan: Plan) -> None:
    check_plan(plan, HARDWARE)


@pytest.mark.parametrize(
    ("name", "kind", "nth", "field", "size"),
    [
        ("head", PackKernel, 0, "target", 3 * 64),
        ("head", GlobalPoolKernel, 0, "source", 3 * 64),
        ("head", GlobalPoolKernel, 0, "target", 3 * 4),
        ("head", LinearKernel, 0, "source", 3 * 4),
        ("head", LinearKernel, 0, "target", 10 * 4),
        ("head", SoftmaxKernel, 0, "source", 10 * 4),
        ("head", SoftmaxKernel, 0, "target", 10 * 4),
        ("head", UnpackKernel, 0, "source", 10 * 4),
        ("body", UnpackKernel, 0, "source", 2 * 64),
        ("body", ElementwiseKernel, 0, "source", 3 * 64),
        ("body", ElementwiseKernel, 0, "target", 3 * 64),
        ("body", ConvolutionKernel, 0, "source", 3 * 64),  # the last of three planes
        ("body", ConvolutionKernel, 0, "target", 3 * 64),
        ("body", ConvolutionKernel, 1, "source", 3 * 64),  # what patches are copied from
        ("body", ConvolutionKernel, 1, "residual", 3 * 64),
        ("body", ConvolutionKernel, 2, "source", 3 * 64),  # in three blocks
        ("body", ConvolutionKernel, 2, "target", 2 * 64),
        ("body", DepthwiseKernel, 0, "source", 3 * 64),
        ("body", DepthwiseKernel, 0, "target", 3 * 64),
        ("body", PoolKernel, 0, "target", 3 * 64),
        ("dense", ConvolutionKernel, 0, "target", 4 * 64),
    ],
)
def test_places_in_the_arena_go_up_to_its_end(
    name: str, kind: type, nth: int, field: str, size: int
) -> None:
    plan = PLANS[name]
    index = find(plan, kind, nth)
    check_plan(change(plan, index, field, plan.arena - size), HARDWARE)
    for beyond in (plan.arena - size + 4, plan.arena, 1 << 39, -64, plan.arena - size + 2):
        with pytest.raises(ValueError, match=f"instruction {index}, .*{field}"):
            check_plan(change(plan, index, field, beyond), HARDWARE)


@pytest.mark.parametrize(
    ("name", "kind", "nth", "size"),
    [
        # Patches of 3x3 vectors: of three planes; of eight planes that are copied together.
        ("body", ConvolutionKernel, 1, 3 * 9 * 64),
        ("body", DepthwiseKernel, 0, 8 * 9 * 64),
        ("dense", ConvolutionKernel, 0, 3 * 9 * 64),
    ],
)
def test_patches_stay_within_scratch_memory(name: str, kind: type, nth: int, size: int) -> None:
    plan = PLANS[name]
    index = find(plan, kind, nth)
    check_plan(change(plan, index, "slab", plan.scratch - size), HARDWARE)
    with pytest.raises(ValueError, match="slab"):
        check_plan(change(plan, index, "slab", plan.scratch - size + 4), HARDWARE)


def test_partial_sums_of_blocks_need_scratch_memory() -> None:
    # The last convolution keeps two rows of a vector.
    index = find(BODY, ConvolutionKernel, 2)
    plan = dataclasses.replace(
        BODY,
        rows=np.stack([BODY.rows[index], BODY.rows[-1]]),
        kernels=(BODY.kernels[index], BODY.kernels[-1]),
        layers=("f", "output"),
    )
    plan.rows[:, 1:3] = number_rows(list(plan.rows))[:, 1:3]
    plan = change(plan, 0, "slab", 0)  # there are no patches
    check_plan(dataclasses.replace(plan, scratch=2 * 64), HARDWARE)
    with pytest.raises(ValueError, match="partial: 128 bytes at 0 of 124"):
        check_plan(dataclasses.replace(plan, scratch=2 * 64 - 4), HARDWARE)


@pytest.mark.parametrize(
    ("name", "kind", "nth", "field", "size"),
    [
        ("head", LinearKernel, 0, "bias", 10 * 4),
        ("head", LinearKernel, 0, "weights", 9 * 4),
        ("head", GlobalPoolKernel, 0, "mask", 16 * 4),
        ("body", ConvolutionKernel, 0, "bias", 3 * 4),
        ("body", ConvolutionKernel, 1, "weights", 3 * 4),
        ("body", DepthwiseKernel, 0, "weights", 3 * 9 * 4),
        ("body", ElementwiseKernel, 0, "shifts", 3 * 4),
    ],
)
def test_tables_go_up_to_the_end_of_the_constants(
    name: str, kind: type, nth: int, field: str, size: int
) -> None:
    plan = PLANS[name]
    index, room = find(plan, kind, nth), len(plan.constants)
    check_plan(change(plan, index, field, room - size), HARDWARE)
    for beyond in (room - size + 4, room, 1 << 39, -4, room - size - 2):
        with pytest.raises(ValueError, match=field):
            check_plan(change(plan, index, field, beyond), HARDWARE)


@pytest.mark.parametrize(
    ("name", "kind", "nth", "field", "item", "new", "dtype"),
    [
        ("head", PackKernel, 0, "places", 5, -4, "<i4"),
        ("head", PackKernel, 0, "places", 5, 2, "<i4"),
        ("head", PackKernel, 0, "places", 5, 4 * 16, "<i4"),  # of an image of 16 pixels
        ("head", LinearKernel, 0, "part_rows", 1, -1, "<i4"),
        ("head", LinearKernel, 0, "part_rows", 32, 1 << 20, "<i4"),
        ("head", LinearKernel, 0, "ends", 10, 1 << 20, "<i4"),
        ("head", LinearKernel, 0, "ends", 3, 9, "<i4"),
        ("head", LinearKernel, 0, "entries", 8, 65535, "<u2"),
        ("head", UnpackKernel, 0, "places", 9, 1 << 20, "<i4"),
        ("body", ConvolutionKernel, 0, "part_rows", 1, 4, "<i4"),
        ("body", ConvolutionKernel, 0, "order", 2, 3, "<i4"),
        ("body", ConvolutionKernel, 0, "order", 0, -1, "<i4"),
        ("body", ConvolutionKernel, 0, "entries", 0, 65535, "<u2"),
        ("body", ConvolutionKernel, 2, "block_planes", 2, 4, "<i4"),
        ("body", ConvolutionKernel, 2, "block_planes", 1, -1, "<i4"),
        ("body", ConvolutionKernel, 1, "block_planes", 1, 1 << 20, "<i4"),
        ("body", ConvolutionKernel, 1, "copy_ends", 1, -1, "<i4"),
        ("body", ConvolutionKernel, 1, "copies", 0, -64, "<i4"),
        ("body", ConvolutionKernel, 1, "copies", 0, 1 << 28, "<i4"),
        ("body", ConvolutionKernel, 1, "copies", 1, 1 << 28, "<i4"),
        ("body", DepthwiseKernel, 0, "offsets", 3, 1 << 28, "<i4"),
        ("body", PoolKernel, 0, "offsets", 8, -64, "<i4"),
        ("dense", ConvolutionKernel, 0, "ends", 1, 28, "<i4"),
        ("dense", ConvolutionKernel, 0, "entries", 0, 1 << 20, "<i4"),  # the number of inputs
        ("dense", ConvolutionKernel, 0, "entries", 16, -64, "<i4"),  # the first offset
        ("dense", ConvolutionKernel, 0, "entries", 16, 1 << 28, "<i4"),
        ("quads", ConvolutionKernel, 0, "slots", 0, 1, "u1"),  # a row twice
        ("quads", ConvolutionKernel, 0, "slots", 7, 8, "u1"),  # a word behind the last one
        ("quads", ConvolutionKernel, 0, "slots", 3, 255, "u1"),
        ("quads", ConvolutionKernel, 0, "part_rows", 1, 1, "<i4"),  # not all rows
        ("quads", ConvolutionKernel, 0, "part_rows", 0, 1, "<i4"),
        ("quads", ConvolutionKernel, 0, "order", 1, 2, "<i4"),
        ("copy", PermuteKernel, 0, "sources", 2, 1 << 28, "<i4"),
        ("copy", PermuteKernel, 0, "sources", 0, -64, "<i4"),
        ("copy", PermuteKernel, 0, "patterns", 1, 1 << 20, "<i4"),
        ("copy", PermuteKernel, 0, "patterns", 0, -1, "<i4"),
        ("copy", PermuteKernel, 0, "ends", 1, 1 << 20, "<i4"),
    ],
)
def test_entries_of_tables_that_lead_elsewhere_are_refused(
    name: str, kind: type, nth: int, field: str, item: int, new: int, dtype: str
) -> None:
    plan = PLANS[name]
    with pytest.raises(ValueError, match="instruction"):
        check_plan(change_table(plan, find(plan, kind, nth), field, item, new, dtype), HARDWARE)


@pytest.mark.parametrize(
    ("kind", "field", "new"),
    [
        (PackKernel, "piece_tiles", 0),  # a division by zero
        (PackKernel, "tiles", 1 << 39),
        (PackKernel, "source_image", 64),
        (PackKernel, "source", 64),
        (PackKernel, "source_plane", 1 << 20),
        (GlobalPoolKernel, "tiles", 1 << 30),
        (LinearKernel, "parts", 0),
        (LinearKernel, "parts", 1 << 20),
        (UnpackKernel, "pixels", 9),  # one result would hold what was in memory before
        (UnpackKernel, "target_image", 44),
        (UnpackKernel, "number", 7),
    ],
)
def test_numbers_that_do_not_fit_the_others_are_refused(kind: type, field: str, new: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  each has a message of its own
        check_plan(change(HEAD, find(HEAD, kind), field, new), HARDWARE)


def test_results_of_two_threads_never_share_memory() -> None:
    index = find(BODY, ConvolutionKernel)
    with pytest.raises(ValueError, match="planes of target overlap"):
        check_plan(change(BODY, index, "target_plane", 60), HARDWARE)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda p: {"kernels": (*p.kernels[:-1], SoftmaxKernel(1))}, "instruction"),
        (lambda p: {k: getattr(p, k)[:-1] for k in ("rows", "kernels", "layers")}, "are results"),
        (lambda p: {"kernels": (PackKernel(16, 2, "input"), *p.kernels[1:])}, "other vectors"),
        (lambda p: {"output_shape": (11,)}, "target_image is 40 instead of 44"),
        (lambda p: {"input_shape": (2, 4, 4)}, "source"),
        (lambda p: {"arena": 1 << 50}, "memory of"),
        (lambda p: {"rows": p.rows[:, :-1]}, "rows of shape"),
    ],
)
def test_plans_whose_parts_do_not_fit_are_refused(
    damage: Callable[[Plan], dict[str, object]], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        check_plan(dataclasses.replace(HEAD, **damage(HEAD)), HARDWARE)  # type: ignore[arg-type]


# A plane of 32x32 pixels is 64 vectors, in tiles of 8: rows of four pixels are copied at once.
LARGE = make_plan(
    chain(GlobalAveragePool("mean", ("x",), "mean", flat=True), shape=(3, 32, 32)), HARDWARE
)


def test_rows_of_pixels_are_read_up_to_their_end_and_no_further() -> None:
    index = find(LARGE, PackKernel)
    kernel = LARGE.kernels[index]
    assert isinstance(kernel, PackKernel)
    assert kernel.rows
    check_plan(LARGE, HARDWARE)
    last = value(LARGE, index, "tiles") * value(LARGE, index, "tile") * 16 - 1
    # The last row starts three pixels before the last one of the last plane.
    start = last - 3 * 16
    for new, fits in ((4 * (1024 - 4), True), (4 * (1024 - 3), False)):
        changed = change_table(LARGE, index, "places", start, new, "<i4")
        if fits:
            check_plan(changed, HARDWARE)
        else:
            with pytest.raises(ValueError, match="source"):
                check_plan(changed, HARDWARE)
    # Vectors within a row are not looked at.
    check_plan(change_table(LARGE, index, "places", start + 16, 4 * 1023, "<i4"), HARDWARE)


@pytest.mark.parametrize(
    ("kernel", "problem"),
    [
        (PackKernel(16, 1, "input", masked=True, rows=True), "other vectors"),
        (PackKernel(16, 1, "input", filled=True, rows=True), "other vectors"),
    ],
)
def test_rows_are_for_whole_vectors(kernel: PackKernel, problem: str) -> None:
    index = find(LARGE, PackKernel)
    kernels = (*LARGE.kernels[:index], kernel, *LARGE.kernels[index + 1 :])
    with pytest.raises(ValueError, match=problem):
        check_plan(dataclasses.replace(LARGE, kernels=kernels), HARDWARE)
    short = change(change(LARGE, index, "tile", 3), index, "tiles", 22)
    with pytest.raises(ValueError):  # noqa: PT011  a tile of three vectors, or another number
        check_plan(short, HARDWARE)
