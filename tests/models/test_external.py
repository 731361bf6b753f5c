"""Networks from elsewhere: built by name, kept by name, and no code run that nobody named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import strzoo
from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.hub.resolve import resolve
from strzoo.models import external

OWN = """
from pathlib import Path
from torch import nn

Path("imported").touch()

def build(num_classes=4, width=8, act="relu"):
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.ReLU() if act == "relu" else nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes),
    )
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, with a module of one's own; importing it leaves a file."""
    (tmp_path / "own_network.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("own_network", None)


def forget(folder: Path) -> None:
    sys.modules.pop("own_network", None)
    (folder / "imported").unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_050", "torchvision:squeezenet1_1"])
def test_a_librarys_network_goes_the_whole_road_by_its_file_alone(
    name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = strzoo.create_model(name, num_classes=7)
    strzoo.sparsify_(model, s_init=-4.0).eval()
    images = torch.randn(2, 3, 64, 64)
    file = strzoo.save_checkpoint(model, tmp_path / "a.pth")
    read = strzoo.read_checkpoint(file)
    assert (read.architecture, read.spec.num_classes, read.format) == (name, 7, "str")
    state = torch.random.get_rng_state()
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(strzoo.load(file)(images), expected)
        assert torch.equal(strzoo.load(file, format="dense")(images), expected)
        assert strzoo.load(file, num_classes=3)(images).shape == (2, 3)
    assert torch.equal(torch.random.get_rng_state()[:8], state[:8])
    library = name.partition(":")[0]
    strzoo.convert(file, tmp_path / "b.pth", layout=library, verify=True)
    strzoo.convert(file, tmp_path / "b.safetensors", compact=True, verify=True)
    # The bare file in the library's own keys is read where the network is named.
    other = strzoo.read_checkpoint(tmp_path / "b.pth", architecture=name)
    assert other.sparsity() == read.sparsity() > 1
    report = strzoo.report(file, input_size=64)
    assert report.sparsity == pytest.approx(read.sparsity())
    # What the library states about its own network.
    steps = resolve(file).preprocessing
    interpolation = {"timm": "bicubic", "torchvision": "bilinear"}[library]
    assert (steps.resize, steps.crop, steps.interpolation) == (256, 224, interpolation)


def test_ones_own_code_is_run_only_if_it_is_named_again(own: Path, cli: Callable[..., Any]) -> None:
    source = "own_network:build"
    model = strzoo.create_model(source, num_classes=5, width=6, act="tanh").eval()
    images = torch.randn(2, 3, 9, 9)
    file = strzoo.save_checkpoint(model, own / "a.pth")
    forget(own)
    with pytest.raises(IntegrityError, match=r"names the code own_network:build .*--architecture"):
        strzoo.load(file)
    assert not (own / "imported").exists()
    with torch.no_grad():
        assert torch.equal(strzoo.load(file, architecture=source)(images), model(images))
    found = cli("report", file, "--input-size", "9", "--json", "--architecture", source)
    # 3 x 6 x 9 and 6 x 5 weights.
    assert found.json["totals"]["weights"] == 192
    found = cli("report", file)
    assert found.code == 4
    assert "--architecture own_network:build" in found.error
    with pytest.raises(IntegrityError, match="holds a own_network:build, not a timm:resnet18"):
        strzoo.load(file, architecture="timm:resnet18")


def test_a_network_made_by_other_means_is_kept_if_its_name_builds_the_same(
    own: Path,
) -> None:
    made = timm.create_model("mobilenetv3_small_050", num_classes=4, drop_rate=0.3)
    file = strzoo.save_checkpoint(made, own / "timm.pth")
    assert strzoo.read_checkpoint(file).architecture == "timm:mobilenetv3_small_050"
    other = timm.create_model("mobilenetv3_small_050", num_classes=4, act_layer="relu")
    with pytest.raises(UsageError, match=r"Hardswish\(\) in place of \(act\): ReLU"):
        strzoo.save_checkpoint(other, own / "other.pth")
    sys.path.append(str(own))
    import own_network  # type: ignore[import-not-found]

    mine = strzoo.sparsify_(own_network.build(3), s_init=-3.0)
    with pytest.raises(IntegrityError, match=r"Sequential of your own .*package\.module:function"):
        strzoo.save_checkpoint(mine, own / "mine.pth")
    strzoo.save_checkpoint(mine, own / "mine.pth", architecture="own_network:build")
    loaded = strzoo.load(own / "mine.pth", architecture="own_network:build")
    assert torch.equal(loaded[0].sparseThreshold, mine[0].sparseThreshold)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm:mobilenetv3_smal_050", {}, "nearest: mobilenetv3_small_050"),
        ("torchvision:resnet", {}, "torchvision has no network 'resnet'; nearest: resnet"),
        ("timm:resnet18", {"checkpoint_path": "/etc/passwd"}, "is not an argument"),
        ("timm:resnet18", {"pretrained": True}, "pretrained is not an argument"),
        ("timm:resnet18", {"depth": {}}, "is no plain value"),
        ("torchvision:resnet18", {"depth": 3}, "cannot be built with depth=3: TypeError"),
        ("timm:../x", {}, "is no network; expected timm:NAME"),
        ("hf_hub:a/b", {}, "is no network"),
        ("nowhere.at.all:f", {}, "cannot import nowhere.at.all"),
        ("os:nothing", {}, "os has no function 'nothing'"),
        ("os:getcwd", {}, "gives str"),
    ],
)
def test_what_builds_no_network_is_named_in_one_line(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(StrzooError, match=message) as caught:
        strzoo.create_model(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"depth": 10**9}}, "it is huge"),
        ({"options": {"checkpoint_path": "x"}}, "is not an argument"),
        ({"options": [1]}, "is no network"),
        ({"num_classes": "many"}, "is no network"),
        ({"architecture": "timm:../../x"}, "is no network"),
        ({"architecture": "os:getcwd"}, "names the code os:getcwd"),
        ({"num_classes": 3}, "misshapen: head.weight"),
        ({"architecture": "timm:vit_small_patch32_224"}, "misshapen"),
    ],
)
def test_a_file_that_states_a_hostile_or_another_network_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = strzoo.create_model("timm:vit_tiny_patch16_224", num_classes=2, depth=1, img_size=32)
    file = strzoo.save_checkpoint(model, tmp_path / "a.pth")
    document = torch.load(file, weights_only=True)
    assert strzoo.load(file) is not None
    document["strzoo"] |= change
    torch.save(document, file)
    with pytest.raises(IntegrityError, match=message):
        strzoo.load(file)


def test_a_network_that_grows_beyond_measure_is_stopped_while_it_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(external, "_MOST_TENSORS", 40)
    with pytest.raises(UsageError, match="too many weights"):
        strzoo.create_model("timm:vit_tiny_patch16_224", img_size=32, depth=8)


WRAPPED = """
import warnings

import torch
from torch import nn
from torch.nn.utils import parametrizations, prune


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.third, self.head = self.second, nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.third(self.second(self.first(x)).relu()).relu().mean((2, 3)))


def shared(num_classes=4): return Net(num_classes)
def compiled(num_classes=4): return torch.compile(Net(num_classes), backend="eager")
def parallel(num_classes=4): return nn.DataParallel(Net(num_classes))
def scripted(num_classes=4):
    with warnings.catch_warnings():  # torch.jit is deprecated
        warnings.simplefilter("ignore")
        return torch.jit.trace(Net(num_classes), torch.zeros(1, 3, 8, 8))


def inner(num_classes=4):
    net = Net(num_classes)
    net.head = nn.DataParallel(net.head)
    return net


def weight_norm(num_classes=4):
    net = Net(num_classes)
    parametrizations.weight_norm(net.first)
    return net


def old_norm(num_classes=4):
    net = Net(num_classes)
    torch.nn.utils.spectral_norm(net.head)
    return net


def masked(num_classes=4):
    net = Net(num_classes)
    prune.random_unstructured(net.first, "weight", amount=0.5)
    return net
"""


@pytest.fixture
def wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module of networks that are wrapped, normalised or have a layer in two places."""
    (tmp_path / "wrapped_networks.py").write_text(WRAPPED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    import wrapped_networks  # type: ignore[import-not-found]

    yield wrapped_networks
    sys.modules.pop("wrapped_networks", None)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "str"])
@pytest.mark.parametrize(
    "name",
    ["shared", "compiled", "parallel", "inner", "weight_norm", "old_norm", "masked"],
)
def test_a_wrapped_or_normalised_network_is_kept_and_read_by_the_function_that_makes_it(
    name: str, sparse: bool, wrapped: Any, tmp_path: Path
) -> None:
    source = f"wrapped_networks:{name}"
    torch.manual_seed(0)
    model = getattr(wrapped, name)(5).eval()
    if sparse:
        strzoo.sparsify_(model, s_init=-3.0)
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = model(images)
        for file in ("a.pth", "a.safetensors"):
            strzoo.save_checkpoint(model, tmp_path / file, architecture=source)
            loaded = strzoo.load(tmp_path / file, architecture=source)
            assert torch.allclose(loaded(images), expected, atol=1e-6)
        # The file of other training code, with the names of the network as it is.
        if not sparse:
            torch.save(model.state_dict(), tmp_path / "b.pth")
            loaded = strzoo.load(tmp_path / "b.pth", architecture=source)
            assert torch.allclose(loaded(images), expected, atol=1e-6)
    read = strzoo.read_checkpoint(tmp_path / "a.pth", architecture=source)
    # A layer in two places is one layer: 3 x 8 x 9, 8 x 8 x 9 and 8 x 5 weights.
    sizes = {layer: weight.numel() for layer, weight in read.effective_weights().items()}
    assert sizes == {"first": 216, "second": 576, "head": 40}
    assert list(read.thresholds()) == (["first", "second", "head"] if sparse else [])


def test_a_threshold_that_only_one_place_of_a_shared_layer_has_is_missed(
    wrapped: Any, tmp_path: Path
) -> None:
    model = strzoo.sparsify_(wrapped.shared(5), s_init=-3.0)
    file = strzoo.save_checkpoint(model, tmp_path / "a.pth", architecture="wrapped_networks:shared")
    document = torch.load(file)
    del document["state_dict"]["module.third.sparseThreshold"]
    torch.save(document, file)
    with pytest.raises(IntegrityError, match=r"missing: third\.sparseThreshold"):
        strzoo.read_checkpoint(file, architecture="wrapped_networks:shared")


def test_a_function_that_gives_torchscript_says_to_give_the_network(wrapped: Any) -> None:
    with pytest.raises(UsageError, match=r"wrapped_networks:scripted: .* is TorchScript, whose"):
        strzoo.create_model("wrapped_networks:scripted")
