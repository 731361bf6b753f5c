from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import strzoo
from strzoo.errors import IntegrityError, UnknownNameError
from strzoo.training.finetuning import Frozen, ZeroMask, load_pretrained


@pytest.fixture
def sparse_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = strzoo.sparsify_(strzoo.create_model("resnet20"), threshold="filter", s_init=-3.0)
    return strzoo.save_checkpoint(model, tmp_path / "sparse.pth")


def zeros_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach() == 0 for n, p in model.named_parameters() if p.dim() == 4}


def test_zeros_stay_zeros_whatever_the_optimizer_does(sparse_file: Path) -> None:
    model = load_pretrained(sparse_file, num_classes=4)
    assert model.training
    assert model.fc.out_channels == 4
    mask = ZeroMask(model)
    before = zeros_of(model)
    kept = sum(int(z.sum()) for z in before.values())
    total = sum(z.numel() for z in before.values())
    assert mask.sparsity == pytest.approx(100 * kept / total)
    assert mask.sparsity > 20
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 4
    for _ in range(3):
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        mask.apply()
    after = zeros_of(model)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not before["fc.weight"].any()  # the new head is free
    moved = {n: p for n, p in model.named_parameters() if not torch.equal(p, start[n])}
    assert moved.keys() == start.keys()


def test_an_str_network_keeps_its_thresholds_and_a_mask_holds_its_zeros(sparse_file: Path) -> None:
    model = load_pretrained(sparse_file, format="str", num_classes=4)
    before = {n: m.effective_weight() == 0 for n, m in strzoo_layers(model).items()}
    mask = ZeroMask(model)
    with torch.no_grad():
        for layer in strzoo_layers(model).values():
            layer.weight.add_(0.5)
            layer.sparseThreshold.fill_(-50.0)
    mask.apply()
    for name, layer in strzoo_layers(model).items():
        assert torch.equal(layer.effective_weight() == 0, before[name])
    # It has the granularity of the file throughout, so it can be written and read again.
    again = strzoo.save_checkpoint(model, sparse_file.with_name("again.pth"))
    strzoo.load(again)


def strzoo_layers(model: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in model.named_modules() if isinstance(m, strzoo.STRConv2d)}


def test_a_restored_mask_holds_the_same_zeros(sparse_file: Path) -> None:
    saved = ZeroMask(load_pretrained(sparse_file)).state_dict()
    other = strzoo.create_model("resnet20")
    mask = ZeroMask(other)
    assert mask.sparsity == 0
    mask.load_state_dict(saved)
    assert torch.equal(zeros_of(other)["conv1.weight"], saved["conv1"])
    with pytest.raises(IntegrityError, match=r"mask of 'fc', shape \(10, 64, 1, 1\), fits no"):
        ZeroMask(strzoo.create_model("resnet20", num_classes=3)).load_state_dict(saved)


def test_frozen_parts_neither_learn_nor_take_in_statistics() -> None:
    model = strzoo.create_model("resnet20")
    frozen = Frozen(model, ["layer?", "conv1.weight"])
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"bn1.weight", "bn1.bias", "fc.weight"}
    assert set(frozen.parameters) == {n for n, _ in model.named_parameters()} - trainable
    model.train()
    frozen.hold()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(torch.randn(4, 3, 8, 8))
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"}
    with pytest.raises(UnknownNameError, match=r"matches 'stem'; top-level parts are conv1, bn1"):
        Frozen(model, ["stem"])
