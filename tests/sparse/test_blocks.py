from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

import strzoo
from strzoo.errors import IntegrityError, UsageError
from strzoo.sparse.blocks import block_soft_threshold, count_blocks, count_zero_blocks
from strzoo.sparse.layers import DNWConv2d, GMPConv2d, STRConv2d
from strzoo.training.builders import build_network
from strzoo.training.config import TrainConfig


def each_block(weight: np.ndarray, block: int) -> list[tuple[int, slice, int, int]]:
    """Where the blocks of [out, in, height, width] are, one by one."""
    out, channels, height, width = weight.shape
    starts = range(0, channels, block)
    return [
        (o, slice(i, i + block), y, x)
        for o, i, y, x in product(range(out), starts, range(height), range(width))
    ]


@settings(max_examples=25)
@given(
    channels=st.integers(1, 9),
    block=st.integers(1, 5),
    seed=st.integers(0, 1000),
    filters=st.booleans(),
)
def test_each_block_is_shrunk_by_its_norm(
    channels: int, block: int, seed: int, filters: bool
) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(3, channels, 2, 1))
    bounds = generator.uniform(0.5, 2, 3) if filters else np.full(3, 1.2)
    expected = np.zeros_like(weight)
    for place in each_block(weight, block):
        norm, bound = np.sqrt((weight[place] ** 2).sum()), bounds[place[0]]
        if norm > bound:
            expected[place] = weight[place] * (norm - bound) / norm
    given_bounds = torch.tensor(bounds.reshape(3, 1, 1, 1) if filters else bounds[:1])
    found = block_soft_threshold(torch.tensor(weight), given_bounds, block)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    zeros = sum((expected[place] == 0).all() for place in each_block(weight, block))
    assert count_zero_blocks(found, block) == zeros
    assert count_blocks(found, block) == len(each_block(weight, block))
    assert not torch.signbit(found[found == 0]).any()


def test_its_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    weight = torch.randn(2, 6, 1, 2, dtype=torch.float64, requires_grad=True)
    s = torch.full((1, 1), 0.3, dtype=torch.float64, requires_grad=True)

    def function(w: Tensor, s: Tensor) -> Tensor:
        return block_soft_threshold(w, s.exp(), 4)

    effective = function(weight, s)
    assert 0 < count_zero_blocks(effective, 4) < count_blocks(effective, 4)
    assert torch.autograd.gradcheck(function, (weight, s))


@pytest.mark.parametrize("kind", [DNWConv2d, GMPConv2d])
def test_dnw_and_gmp_drop_the_blocks_of_the_smallest_norms(kind: type) -> None:
    torch.manual_seed(0)
    layer = kind(10, 6, 3, prune_rate=0.75, block=4)
    weight = layer.weight.detach().numpy()
    places = each_block(weight, 4)  # 6 * 3 * 9
    order = sorted(places, key=lambda place: float((weight[place] ** 2).sum()))
    expected = weight.copy()
    for place in order[: round(0.75 * len(places))]:
        expected[place] = 0
    effective = layer.effective_weight()
    np.testing.assert_array_equal(effective.detach().numpy(), expected)
    effective.sum().backward()
    reached = torch.ones_like(layer.weight) if kind is DNWConv2d else torch.tensor(expected != 0)
    assert torch.equal(layer.weight.grad != 0, reached.bool())
    compiled = torch.compile(layer.effective_weight, backend="eager", fullgraph=True)
    assert torch.equal(compiled(), effective)


@pytest.mark.slow
def test_blocks_of_a_target_go_the_whole_road(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = strzoo.create_model("resnet20", num_classes=10)
    strzoo.sparsify_(model, "str", block=4, s_init=-4.0)
    target = strzoo.SparsityTarget(model, 0.9, total_steps=1)
    target.step()
    report = strzoo.report(model, input_size=32)
    # The first layer has blocks of 3 input channels, all others of 4.
    assert report.sparsity == pytest.approx(90, abs=100 * 2 / report.weights)
    assert report.nonzeros is not None
    living = sum(layer.blocks - (layer.zero_blocks or 0) for layer in report.layers)
    first = report.layers[0]
    assert report.nonzeros == 4 * living - (first.blocks - (first.zero_blocks or 0))

    path = strzoo.save_checkpoint(model, tmp_path / "a.pth")
    kept = strzoo.read_checkpoint(path)
    assert kept.block == 4
    effective = {
        name: layer.effective_weight()
        for name, layer in model.named_modules()
        if isinstance(layer, STRConv2d)
    }
    assert all(torch.equal(kept.effective_weights()[name], w) for name, w in effective.items())
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(kept.build_model()(images), model.eval()(images))

    dense = strzoo.to_dense(kept)
    compact = strzoo.save_checkpoint(dense, tmp_path / "a.safetensors", compact=True)
    again = strzoo.read_checkpoint(compact)
    assert again.block == 4
    assert all(torch.equal(again.state_dict[key], v) for key, v in dense.state_dict.items())
    assert load_file(compact)["layer3.0.conv1.weight.mask"].numel() == 64 * 32 // 4 * 9 // 8

    exported = strzoo.export_onnx(path, tmp_path / "a.onnx")
    assert exported.metadata["strzoo.block"] == "4"
    assert strzoo.report(tmp_path / "a.onnx").block_sparsity == pytest.approx(
        report.block_sparsity, abs=0.01
    )


def test_a_configuration_asks_for_blocks(tmp_path: Path) -> None:
    def configure(**keys: object) -> TrainConfig:
        return TrainConfig(architecture="resnet20", num_classes=10, **keys)  # type: ignore[arg-type]

    model = build_network(configure(method="str", block=4, s_init=-4.0)).model
    assert {m.block for m in model.modules() if isinstance(m, STRConv2d)} == {4}
    gmp = build_network(configure(method="gmp", block=4, prune_rate=0.5, epochs=100)).model
    assert {m.block for m in gmp.modules() if isinstance(m, GMPConv2d)} == {4}
    path = strzoo.save_checkpoint(model, tmp_path / "a.pth")
    with pytest.raises(UsageError, match="blocks of 4 input channels, not 1; set block=4"):
        build_network(configure(method="str", start_from=str(path)))
    begun = build_network(configure(method="str", block=4, start_from=str(path))).model
    assert begun.conv1.block == 4


def test_what_cannot_have_blocks_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1))
    with pytest.raises(UsageError, match="block 0 is not a whole number"):
        strzoo.sparsify_(model, block=0)
    with pytest.raises(UsageError, match="threshold 'weight'"):
        strzoo.sparsify_(model, threshold="weight", block=4)
    with pytest.raises(UsageError, match="block=4 is for method=str, dnw and gmp"):
        TrainConfig(method="dense", block=4)
    mixed = strzoo.create_model("resnet20", num_classes=10)
    strzoo.sparsify_(mixed, skip=["layer*"])
    strzoo.sparsify_(mixed, block=4)
    with pytest.raises(UsageError, match="blocks of 1 and 4 input channels"):
        strzoo.save_checkpoint(mixed, tmp_path / "a.pth")
    odd = {"strzoo": {"block": -3}, "state_dict": strzoo.create_model("resnet20").state_dict()}
    torch.save(odd, tmp_path / "odd.pth")
    with pytest.raises(IntegrityError, match=r"strzoo\.block: block -3"):
        strzoo.read_checkpoint(tmp_path / "odd.pth")
