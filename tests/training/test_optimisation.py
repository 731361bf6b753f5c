from __future__ import annotations

from torch import nn

import strzoo
from strzoo.training.optimisation import groups_by_name, parameter_groups


class Scaled(nn.Module):
    """A linear layer with a bias, a norm, an activation's slope, and one frozen part."""

    def __init__(self) -> None:
        super().__init__()
        self.bn_free_name = nn.Linear(3, 3)
        self.first = nn.GroupNorm(1, 3)
        self.second = nn.RMSNorm(3)
        self.slope = nn.PReLU(3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)


def test_parameters_are_grouped_by_the_type_of_their_module() -> None:
    model = strzoo.sparsify_(Scaled(), threshold="global")
    names = {id(p): n for n, p in model.named_parameters()}
    groups = parameter_groups(model, weight_decay=0.1, threshold_decay=0.3)
    found = {g["name"]: (g["weight_decay"], {names[id(p)] for p in g["params"]}) for g in groups}
    assert found == {
        "weights": (0.1, {"bn_free_name.weight"}),
        "thresholds": (0.3, {"bn_free_name.sparseThreshold"}),
        "normalisation": (
            0.0,
            {"bn_free_name.bias", "first.weight", "first.bias", "second.weight", "slope.weight"},
        ),
    }


def test_every_batchnorm_of_mobilenet_and_of_the_shortcuts_is_spared() -> None:
    for architecture in ("mobilenetv1", "resnet20"):
        model = strzoo.create_model(architecture)
        groups = {g["name"]: g for g in parameter_groups(model, weight_decay=0.1)}
        assert all(p.dim() == 4 for p in groups["weights"]["params"])
        assert all(p.dim() == 1 for p in groups["normalisation"]["params"])
        assert groups["normalisation"]["weight_decay"] == 0
    decayed = parameter_groups(model, weight_decay=0.1, decay_normalisation=True)
    assert {g["weight_decay"] for g in decayed} == {0.1}


def test_groups_by_name_are_those_of_the_published_code() -> None:
    model = strzoo.sparsify_(strzoo.create_model("resnet18", num_classes=5))
    names = {id(p): n for n, p in model.named_parameters()}
    groups = groups_by_name(model, weight_decay=0.1, decay_normalisation=False)
    assert [(g["name"], g["weight_decay"], len(g["params"])) for g in groups] == [
        # 17 BatchNorms called bn; 3 in the shortcuts are not, and decay with the 21 weights.
        ("bn", 0.0, 34), ("thresholds", 0.1, 21), ("rest", 0.1, 21 + 6),
    ]  # fmt: skip
    rest = [names[id(p)] for p in groups[2]["params"]]
    assert rest[:2] == ["conv1.weight", "layer1.0.conv1.weight"]
    assert "layer2.0.downsample.1.weight" in rest
    mobile = groups_by_name(strzoo.create_model("mobilenetv1"), weight_decay=0.1)
    assert [len(g["params"]) for g in mobile] == [0, 0, 28 + 2 * 27]
    assert {g["weight_decay"] for g in mobile} == {0.1}
