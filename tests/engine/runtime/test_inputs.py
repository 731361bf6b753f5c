"""What docs/engine.md says of unusual images, and of models in other processes and on few cores."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import strzoo
from strzoo.errors import StrzooError, UsageError
from strzoo.settings import Settings
from tests.helpers.engine.models import build, images
from tests.helpers.runs import run_program

SHAPE = (4, 7, 6)


def build_identity(last: str = "b = Relu(a)") -> onnx.ModelProto:
    """A convolution that copies its channels, three of four weights zero, and what follows it."""
    eye = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    return build(f"a = Conv(x, w) {last} y = Flatten(b)", w=eye)


@pytest.fixture(scope="module")
def model(shared: Settings) -> strzoo.SparseModel:
    return strzoo.compile(build_identity(), threads=2, settings=shared)


def expect(x: np.ndarray) -> np.ndarray:
    """ReLU keeps NaN, as np.maximum does."""
    result: np.ndarray = np.maximum(x, 0).reshape(len(x), -1)
    return result


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38, 1e-40, -1e-45])
def test_special_values_spread_through_nonzero_weights_of_their_own_image(
    value: float, model: strzoo.SparseModel
) -> None:
    x = images(SHAPE, 5)
    before = model(x)
    x[2, 1, 3, 4] = value
    found = model(x)
    assert np.array_equal(found, expect(x), equal_nan=True)
    assert np.array_equal(np.delete(found, 2, 0), np.delete(before, 2, 0))
    assert np.array_equal(model(x[2:3]), found[2:3], equal_nan=True)
    assert np.array_equal(model(images(SHAPE, 5)), before)  # nothing is left behind


def test_a_maximum_keeps_a_nan_or_is_that_of_the_others(shared: Settings) -> None:
    pool = "b = MaxPool<kernel_shape=[7, 6]>(a)"
    model = strzoo.compile(build_identity(pool), threads=1, settings=shared)
    x = images(SHAPE, 2)
    x[1, 2, 4, 4] = np.nan
    found, others = model(x), np.nanmax(x, (2, 3))
    assert np.isnan(found[1, 2]) or found[1, 2] == others[1, 2]
    found[1, 2] = others[1, 2]
    assert np.array_equal(found, others)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(">f4"),
        lambda x: x.astype(np.float64),
        lambda x: x.astype(np.longdouble),
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=3)[..., ::2],
        lambda x: x[::-1, :, ::-1, ::-1].copy()[::-1, :, ::-1, ::-1],
        lambda x: torch.from_numpy(x).to(memory_format=torch.channels_last),
        lambda x: torch.from_numpy(x).double().requires_grad_(),
        lambda x: torch.from_numpy(-x)._neg_view(),
    ],
    ids=["bytes", "f8", "long", "fortran", "steps", "backwards", "last", "grad", "negative"],
)
def test_layouts_and_types_do_not_matter(
    change: Callable[[np.ndarray], Any], model: strzoo.SparseModel
) -> None:
    x = images(SHAPE, 3)
    x.setflags(write=False)
    given = change(x.copy())
    assert np.array_equal(np.asarray(model(given)), expect(x))


def test_numbers_beyond_fp32_become_infinite_and_halves_are_exact(
    model: strzoo.SparseModel,
) -> None:
    wide = np.full((1, *SHAPE), 1e300)
    assert np.isinf(model(wide)).all()
    half = images(SHAPE, 2).astype(np.float16)
    assert np.array_equal(model(half), expect(half.astype(np.float32)))
    rounded = torch.from_numpy(images(SHAPE, 2)).bfloat16()
    assert np.array_equal(model(rounded).numpy(), expect(rounded.float().numpy()))


def test_none_and_very_many_images(model: strzoo.SparseModel) -> None:
    assert model(images(SHAPE, 3)[:0]).shape == (0, 168)
    x = images(SHAPE, 20_001)
    assert np.array_equal(model(x), expect(x))
    endless = np.broadcast_to(x[:1], (1 << 40, *SHAPE))
    with pytest.raises(StrzooError, match=r"which the system does not give; use smaller batches"):
        model(endless)
    with pytest.raises(UsageError, match=r"a sparse tensor; pass images.to_dense\(\)"):
        model(torch.zeros(1, *SHAPE).to_sparse())


LOAD = """
import pickle, sys
import numpy as np
model = pickle.load(open(sys.argv[1], "rb"))
assert model.threads == 2 and "torch" not in sys.modules
sys.exit(0 if np.array_equal(model(np.load(sys.argv[2])), np.load(sys.argv[3])) else 3)
"""


@pytest.mark.slow
def test_a_model_is_pickled_for_another_process(model: strzoo.SparseModel, tmp_path: Path) -> None:
    x = images(SHAPE, 3)
    (tmp_path / "model").write_bytes(pickle.dumps(model))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", model(x))
    files = [tmp_path / name for name in ("model", "x.npy", "y.npy")]
    assert run_program(LOAD, *files) == 0
    assert np.array_equal(copy.deepcopy(model)(x), model(x))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads are not placed here")
def test_more_threads_than_cores_compute_the_same(shared: Settings) -> None:
    cores, x = os.sched_getaffinity(0), images(SHAPE, 3)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert strzoo.compile(build_identity(), settings=shared).threads == 1
        two = strzoo.compile(build_identity(), threads=2, settings=shared)
        assert np.array_equal(two(x), expect(x))
        assert np.array_equal(two(x[:1]), expect(x[:1]))
    finally:
        os.sched_setaffinity(0, cores)
    assert np.array_equal(two(x), expect(x))
