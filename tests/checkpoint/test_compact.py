from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import strzoo
from strzoo.checkpoint import compact
from strzoo.errors import IntegrityError, StrzooError
from tests.helpers.published import str_state

# Raw bits, so that negative zeros, NaN payloads and denormals come up too.
BITS = st.sampled_from([0, 0, 0, 0, 1, 0x80000000, 0x3FC00000, 0xFFC00001, 0x7F800000])
tensors = nps.arrays(np.uint32, nps.array_shapes(min_dims=0, max_dims=4, max_side=9), elements=BITS)


@settings(max_examples=80)
@given(st.lists(tensors, min_size=1, max_size=4))
def test_decoding_gives_every_bit_back(arrays: list[np.ndarray]) -> None:
    state = {f"t{i}": torch.from_numpy(a.view(np.float32)) for i, a in enumerate(arrays)}
    stored, header = compact.encode(state)
    again = compact.decode(stored, header)
    assert again.keys() == state.keys()
    for name, array in zip(state, arrays, strict=True):
        found = again[name].numpy().view(np.uint32)
        assert found.shape == array.shape
        assert np.array_equal(found, array)


def test_the_bytes_are_those_of_the_documentation(tmp_path: Path) -> None:
    values = torch.tensor([0, 1.5, 0, 0, 0, 0, 0, 0, -2.0, 0])
    stored, header = compact.encode({"t": values})
    assert header["format"] == "strzoo-compact"
    assert json.loads(header["shapes"]) == {"t": [10]}
    save_file(stored, tmp_path / "t.safetensors", header)
    raw = (tmp_path / "t.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    layout = json.loads(raw[8 : 8 + size])

    def content(name: str) -> str:
        start, end = layout[name]["data_offsets"]
        return raw[8 + size + start : 8 + size + end].hex(" ")

    assert content("t.mask") == "02 01"
    assert content("t.values") == "00 00 c0 3f 00 00 00 c0"


def test_blocks_of_channels_share_a_bit_as_documented() -> None:
    weight = torch.zeros(2, 6, 1, 16)
    weight[0, :4, 0, 0] = torch.tensor([1.0, 1.5, 0.0, 3.0])
    weight[1, 4:, 0, 15] = torch.tensor([-2.0, 5.0])
    stored, header = compact.encode({"t": weight})
    assert (header["version"], json.loads(header["blocks"])) == ("2", {"t": 4})
    # 2 x 2 x 16 blocks: number 0, and (1 x 2 + 1) x 16 + 15 = 63.
    assert stored["t.mask"].tolist() == [1, 0, 0, 0, 0, 0, 0, 128]
    assert stored["t.values"].tolist() == [1, 1.5, 0, 3, -2, 5, 0, 0]
    assert torch.equal(compact.decode(stored, header)["t"], weight)
    odd = {**stored, "t.values": torch.tensor([1, 1.5, 0, 3, -2, 5, 9, 0])}
    with pytest.raises(IntegrityError, match="beyond its input channels"):
        compact.decode(odd, header)
    for blocks, problem in ({"t": "4"}, "no number of channels"), ({"u": 4}, "but no shape"):
        with pytest.raises(IntegrityError, match=problem):
            compact.decode(stored, {**header, "blocks": json.dumps(blocks)})


@pytest.fixture(scope="module")
def compact_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compact") / "a.safetensors"
    dense = strzoo.to_dense(strzoo.build_checkpoint(str_state("mobilenetv1", 89.01)))
    return strzoo.save_checkpoint(dense, path, compact=True)


def test_a_compact_network_is_the_dense_one_bit_for_bit(compact_file: Path) -> None:
    dense = strzoo.to_dense(strzoo.build_checkpoint(str_state("mobilenetv1", 89.01)))
    again = strzoo.read_checkpoint(compact_file)
    assert again.spec == dense.spec
    for key, value in dense.state_dict.items():
        assert torch.equal(again.state_dict[key], value)


@pytest.mark.slow
def test_a_resnet50_of_ninety_percent_takes_at_most_15_mb(tmp_path: Path) -> None:
    state = str_state("resnet50", strzoo.load_budget("resnet50_str_90.23"))
    dense = strzoo.to_dense(strzoo.build_checkpoint(state))
    path = strzoo.save_checkpoint(dense, tmp_path / "a.safetensors", compact=True)
    half = strzoo.save_checkpoint(dense, tmp_path / "h.safetensors", compact=True, half=True)
    assert path.stat().st_size <= 15_000_000
    # Half: 2 bytes for each of 2,492,000 values, one bit for each of 25,502,912 weights, and
    # fp32 BatchNorm: 4 x 26,560 channels x 4 bytes.
    expected = 2 * 2_492_000 + 25_502_912 / 8 + 4 * 26_560 * 4
    assert half.stat().st_size == pytest.approx(expected, rel=0.01)
    assert strzoo.read_checkpoint(path).sparsity() == dense.sparsity()
    found = strzoo.read_checkpoint(half)
    for key, value in found.state_dict.items():
        assert value.dtype == dense.state_dict[key].dtype
        torch.testing.assert_close(value, dense.state_dict[key], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("version", "version '3' is not supported"),
        ("no shapes", "no shapes"),
        ("short mask", "its mask does not have"),
        ("padding", "padding bits"),
        ("value missing", "values for"),
        ("mask missing", "its mask or its values are missing"),
        ("stored twice", "stored twice"),
        ("negative shape", "is not a shape"),
        ("huge shape", "its mask does not have"),
        ("bad json", "its header, is not a safetensors file"),
    ],
)
def test_a_compact_file_with_a_fault_is_refused(
    change: str, named: str, compact_file: Path, tmp_path: Path
) -> None:
    state = load_file(compact_file)
    with safe_open(compact_file, "pt") as stream:
        header = dict(stream.metadata())
    shapes = json.loads(header["shapes"])
    # The stem has 32 x 3 x 3 x 3 = 864 weights: no padding bits; make one of odd size.
    key = "model.0.0.weight"
    match change:
        case "version":
            header["version"] = "3"
        case "no shapes":
            del header["shapes"]
        case "short mask":
            state[f"{key}.mask"] = state[f"{key}.mask"][:-1]
        case "padding":
            shapes[key] = [863]
        case "value missing":
            state[f"{key}.values"] = state[f"{key}.values"][:-1]
        case "mask missing":
            del state[f"{key}.mask"]
        case "stored twice":
            state[key] = torch.zeros(32, 3, 3, 3)
        case "negative shape":
            shapes[key] = [-1, 3]
        case "huge shape":
            shapes[key] = [10**18, 10**18]
    if change not in ("no shapes", "bad json"):
        header["shapes"] = json.dumps(shapes)
    if change == "padding":
        state[f"{key}.mask"][-1] |= 0x80
    if change == "bad json":
        header["shapes"] = "{"
    path = tmp_path / "a.safetensors"
    save_file(state, path, header)
    with pytest.raises(IntegrityError) as error:
        strzoo.read_checkpoint(path)
    assert named in str(error.value)


def test_a_weight_too_large_for_half_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    model = strzoo.create_model("resnet20")
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] = 1e5
    checkpoint = strzoo.build_checkpoint(model)
    with pytest.raises(StrzooError, match=r"conv1\.weight has a weight beyond fp16"):
        strzoo.save_checkpoint(checkpoint, tmp_path / "a.safetensors", half=True)
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_would_grow_are_stored_as_they_are() -> None:
    dense: dict[str, Tensor] = {"a": torch.ones(100), "b": torch.zeros(0), "c": torch.tensor(3)}
    stored, header = compact.encode(dense)
    assert stored.keys() == dense.keys()
    assert json.loads(header["shapes"]) == {}
