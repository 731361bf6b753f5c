"""InferenceSession: the code that calls onnxruntime's sessions calls ours and gets the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import strzoo
from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.settings import Settings
from tests.helpers.engine.models import images
from tests.helpers.engine.networks import CLASSES, load_model, relative_error

IMAGE = (3, 32, 32)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return load_model("small", 32)


@pytest.fixture(scope="module")
def file(model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("session") / "small.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def session(file: Path, shared: Settings) -> strzoo.InferenceSession:
    return strzoo.InferenceSession(file, settings=shared)


def use(session: Any, x: np.ndarray) -> tuple[list[str], list[str], list[str], np.ndarray]:
    """What programs do with a session, whichever library's it is."""
    (given,) = session.get_inputs()
    outputs = session.get_outputs()
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.get_modelmeta().custom_metadata_map == {}
    assert session.get_overridable_initializers() == []
    names = [output.name for output in outputs]
    (result,) = session.run(names, {given.name: x})
    (same,) = session.run(None, {given.name: x}, None)
    assert np.array_equal(result, same)
    assert given.shape[1:] == [*IMAGE]
    types = [value.type for value in (given, *outputs)]
    return [given.name], names, types, result


def test_a_program_written_for_onnxruntime_gets_the_same_from_ours(
    file: Path, session: strzoo.InferenceSession, shared: Settings
) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    x = images(IMAGE, 5)
    expected = use(onnxruntime.InferenceSession(str(file), options), x)
    ours = strzoo.InferenceSession(
        str(file), options, ["CUDAExecutionProvider", ("CPUExecutionProvider", {})], settings=shared
    )
    found = use(ours, x)
    assert found[:3] == expected[:3]
    assert relative_error(found[3], expected[3]) < 1e-4
    assert ours.model.threads == ours.get_session_options().intra_op_num_threads == 1
    assert ours.get_outputs()[0].shape == [None, CLASSES]
    assert relative_error(use(session, x)[3], expected[3]) < 1e-4


def test_files_and_bytes_are_taken_and_names_survive_saving(
    model: onnx.ModelProto, session: strzoo.InferenceSession, shared: Settings, tmp_path: Path
) -> None:
    renamed = copy.deepcopy(model)
    for node in renamed.graph.node:
        node.input[:] = ["pixels" if name == "images" else name for name in node.input]
    renamed.graph.input[0].name = "pixels"
    x = images(IMAGE, 2)
    (expected,) = session.run(None, {"images": x})
    compiled = strzoo.compile(renamed, settings=shared)
    path = compiled.save(tmp_path / "renamed.strz")
    for given in (renamed.SerializeToString(), path, path.read_bytes(), compiled):
        one = strzoo.InferenceSession(given, settings=shared)
        assert [value.name for value in one.get_inputs()] == ["pixels"]
        assert np.array_equal(one.run(None, {"pixels": x})[0], expected)
    (found,) = one.run([], {"pixels": torch.from_numpy(x).double()})
    assert type(found) is np.ndarray
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("names", "feed", "said"),
    [
        (None, {}, "input 'images' is missing; the network takes 'images'"),
        (None, {"image": 0}, "there is no input 'image'; the network has 'images'"),
        (["scores"], {"images": images(IMAGE)}, "there is no output 'scores'; the network has '"),
        (None, images(IMAGE), "the inputs are an? ndarray; expected a dictionary of arrays"),
        (None, {"images": images((3, 32, 31))}, r"input 'images': .*\[3, 3, 32, 31\]; expected"),
        (None, {"images": np.zeros((1, *IMAGE), np.uint8)}, "input 'images': .* of uint8; expec"),
        (None, {"images": [[1.0]]}, "input 'images': a list instead of"),
    ],
)
def test_wrong_names_shapes_and_types_are_named(
    names: Any, feed: Any, said: str, session: strzoo.InferenceSession
) -> None:
    with pytest.raises(UsageError, match=said):
        session.run(names, feed)


def test_other_devices_options_and_files_are_refused(
    file: Path, shared: Settings, tmp_path: Path
) -> None:
    for arguments, said in (
        ({"providers": ["CUDAExecutionProvider"]}, "runs on the CPU: add CPUExecutionProvider"),
        ({"providers": "CPUExecutionProvider"}, "expected a list such as"),
        ({"sess_options": 4}, "sess_options is 4; expected onnxruntime.SessionOptions"),
        ({"native": True}, "native is for .strz files"),
    ):
        with pytest.raises(UsageError, match=said):
            strzoo.InferenceSession(file, settings=shared, **arguments)
    damaged = tmp_path / "damaged.strz"
    damaged.write_bytes(b"STRZPLAN")
    for broken in (damaged, b"STRZPLAN" + bytes(100), b"no model"):
        with pytest.raises(IntegrityError):
            strzoo.InferenceSession(broken, settings=shared)
    with pytest.raises(StrzooError, match="does not exist"):
        strzoo.InferenceSession(tmp_path / "none.strz", settings=shared)
