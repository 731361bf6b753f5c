"""Resize by weighted sums of pixels, beside onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import strzoo
from strzoo.engine.frontend.read import read_graph
from strzoo.engine.ir.graph import Resample
from strzoo.errors import StrzooError
from tests.helpers.engine.models import assert_agrees, build, images, run_onnxruntime

MAP = "float[N, A, B, C] y"
ONES = np.ones(2, np.float32)
MODES = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric")


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["linear", "linear", "cubic"]),
    st.sampled_from(MODES),
    st.sampled_from([11, 13, 18, 19, 22]),
    st.lists(st.integers(1, 21), min_size=2, max_size=2),
    st.sampled_from(["sizes", "scales", "axes"]),
    st.sampled_from([0, 1]),
)
def test_any_attributes_compute_what_onnxruntime_does(
    mode: str, coordinates: str, opset: int, sides: list[int], given: str, outside: int
) -> None:
    assume(opset >= 18 or given != "axes")
    assume(opset >= 19 or coordinates != "half_pixel_symmetric")
    fields = f'mode = "{mode}", coordinate_transformation_mode = "{coordinates}"'
    if mode == "cubic":
        fields += f", exclude_outside = {outside}, cubic_coeff_a = -0.6"
    if given == "axes":
        fields += ", axes = [3, 2]"
    scales = np.array([*ONES, *(np.array(sides) / (7, 6) + 0.03)], np.float32)
    weights: dict[str, Any] = {
        "sizes": {"sizes": np.array([1, 4, *sides])},
        "scales": {"scales": scales},
        "axes": {"scales": scales[:1:-1]},
    }[given]
    inputs = "x, roi, none, sizes" if given == "sizes" else "x, roi, scales"
    if given == "sizes":
        weights["none"] = np.zeros(0, np.float32)
    if opset >= 13:
        inputs = inputs.replace("roi", "").replace("none", "")
        weights.pop("none", None)
    else:
        weights["roi"] = np.zeros(0, np.float32)
    model = build(f"y = Resize <{fields}> ({inputs})", output=MAP, opset=opset, **weights)
    assert_agrees(model, batch=1)


@pytest.mark.parametrize("operator", ["Upsample", "Resize"])
def test_the_first_versions_are_asymmetric(operator: str) -> None:
    scales = np.array([1, 1, 2, 1.5], np.float32)
    body = f'y = {operator} <mode = "linear"> (x, scales)'
    opset = 9 if operator == "Upsample" else 10
    assert_agrees(build(body, output=MAP, opset=opset, scales=scales))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", MODES[:4])
@pytest.mark.parametrize("scales", [(1.03, 1.1), (1.03, 1.5), (1.5, 1.1)], ids=str)
def test_scales_that_change_no_size_change_nothing(
    mode: str, coordinates: str, scales: tuple[float, float]
) -> None:
    # 7 x 6 pixels: of the second and the third scales, one side alone stays as it is.
    body = f'''y = Resize <mode = "{mode}", coordinate_transformation_mode = "{coordinates}",
        nearest_mode = "ceil"> (x, , scales)'''
    given = np.array([1, 1, *scales], np.float32)
    assert_agrees(build(body, output=MAP, scales=given), batch=1)


@pytest.mark.parametrize("opset", [9, 10])
@pytest.mark.parametrize(
    "scales", [(2, 3), (1.5, 1.7), (4 / 3, 2.4), (0.5, 0.7), (0.4, 1.9)], ids=str
)
def test_the_first_versions_take_the_pixel_before_or_if_smaller_the_one_behind(
    opset: int, scales: tuple[float, float]
) -> None:
    if opset == 9 and min(scales) < 1:
        pytest.skip("Upsample makes nothing smaller")
    operator = "Upsample" if opset == 9 else "Resize"
    body = f'y = {operator} <mode = "nearest"> (x, scales)'
    given = np.array([1, 1, *scales], np.float32)
    assert_agrees(build(body, output=MAP, opset=opset, scales=given), tolerance=0)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 4])
def test_the_kernel_adds_the_pixels_of_each_image(lanes: int) -> None:
    body = """c = Conv <pads = [1, 1, 1, 1]> (x, w)
        r = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (c, , up)
        p = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r)
        y = Resize <mode = "cubic"> (p, , down)"""
    weights: dict[str, Any] = {
        "w": np.random.default_rng(1).standard_normal((5, 4, 3, 3)).astype(np.float32),
        "up": np.array([1, 1, 2, 1.7], np.float32),
        "down": np.array([1, 1, 0.8, 0.6], np.float32),
    }
    model = build(body, output=MAP, **weights)
    x = images((4, 7, 6), 5)
    x[2, 1, 3, 3] = np.nan
    found = strzoo.compile(model, cache=False, islands="none", lanes=lanes)(x)
    np.testing.assert_allclose(found, run_onnxruntime(model, x), rtol=1e-4, atol=1e-4)


def test_a_resize_is_one_layer_and_what_is_lacking_is_named() -> None:
    sizes = np.array([1, 4, 14, 12])
    (layer,) = read_graph(
        build('y = Resize <mode = "linear"> (x, , , sizes)', output=MAP, sizes=sizes)
    ).layers
    assert isinstance(layer, Resample)
    for fields, said in (
        ('mode = "linear", antialias = 1', "with antialiasing"),
        ('mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize"', "coordinates"),
        ('keep_aspect_ratio_policy = "not_larger"', "keeps the aspect"),
    ):
        with pytest.raises(StrzooError) as caught:
            read_graph(build(f"y = Resize <{fields}> (x, , , sizes)", output=MAP, sizes=sizes))
        assert said in str(caught.value)


@pytest.mark.parametrize("batch", ["N", "2"])
@pytest.mark.parametrize(
    ("body", "sizes", "read"),
    [
        ("r = Resize (c, , , sizes)", [2, 4, 14, 12], {"2"}),
        ("r = Resize (c, , , sizes)", [2, 8, 14, 12], set()),
        ("r = Resize (c, , , sizes)", [4, 4, 14, 12], set()),
        ("r = Resize <axes = [3, 2]> (c, , , sizes)", [12, 14], {"N", "2"}),
        ("r = Resize <axes = [2, 1]> (c, , , sizes)", [14, 8], set()),
        ("s = Shape <end = 1> (c) n = Concat <axis = 0> (s, sizes) r = Resize (c, , , n)",
         [4, 14, 12], {"N", "2"}),
        ("s = Shape <end = 1> (c) n = Concat <axis = 0> (s, sizes) r = Resize (c, , , n)",
         [8, 14, 12], set()),
    ],
)  # fmt: skip
def test_sizes_of_other_channels_or_images_are_onnxruntimes(
    body: str, sizes: list[int], read: set[str], batch: str
) -> None:
    w = np.random.default_rng(1).standard_normal((4, 4, 1, 1)).astype(np.float32)
    model = build(
        f"c = Conv (x, w) {body} y = Neg (r)", image=f"float[{batch}, 4, 7, 6] x",
        output="float[M, A, B, C] y", w=w, sizes=np.array(sizes),
    )  # fmt: skip
    x = images((4, 7, 6), 2)
    expected = run_onnxruntime(model, x)
    if len(expected) == len(x):
        found = strzoo.compile(model, 1, cache=False, islands="missing")(x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    if batch in read:
        assert read_graph(model).shapes["y"] == expected.shape[1:]
    else:
        with pytest.raises(StrzooError, match="Resize at r \\(of images or channels"):
            read_graph(model)
