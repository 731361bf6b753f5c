"""Files as training code of all kinds writes them give the network that was saved."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

import strzoo
from strzoo.errors import IntegrityError, UsageError
from strzoo.sparse.selection import prunable_layers
from tests.helpers.foreign import foreign_values, prefixed, small_network, write_tar
from tests.helpers.published import dense_state

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return small_network()


@pytest.fixture(scope="module")
def state(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.state_dict())


def _check(path: Path, expected: nn.Module, *notes: str, exact: bool = True) -> strzoo.Checkpoint:
    """The file gives the network that `expected` is, and its notes say so."""
    found = strzoo.read_checkpoint(path)
    with torch.no_grad():
        ours, theirs = found.build_model()(IMAGES), expected.eval()(IMAGES)
    torch.testing.assert_close(ours, theirs, rtol=0 if exact else 1e-4, atol=0 if exact else 1e-4)
    told = "; ".join(found.notes)
    assert all(note in told for note in notes), told
    return found


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "entry",
    [
        *("state_dict", "model", "model_state_dict", "net", "network", "module", "weights"),
        *("params", "ema", "model_ema", "state_dict_ema", "model > state_dict", "student"),
    ],
)
def test_the_weights_are_found_beside_foreign_objects(
    entry: str, zipped: bool, network: nn.Module, state: dict[str, Tensor], tmp_path: Path
) -> None:
    document: Any = state
    for name in reversed(entry.split(" > ")):
        document = {"epoch": 3, name: document}
    path = tmp_path / "a.ckpt"
    with foreign_values() as values:
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        document |= {**values, "optimizer": optimizer.state_dict(), "loss": torch.tensor(0.5)}
        torch.save(document, path, _use_new_zipfile_serialization=zipped)
    shown = " > ".join(map(repr, entry.split(" > ")))
    found = _check(path, network, f"weights from entry {shown}")
    assert ("an average" in found.notes[0]) == ("ema" in entry)
    assert found.metadata == {"epoch": 3}


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("module.", ["module."]),
        ("_orig_mod.", ["_orig_mod."]),
        ("model.", ["model."]),
        ("backbone.", ["backbone."]),
        ("encoder.", ["encoder."]),
        ("net.", ["net."]),
        ("module._orig_mod.", ["module.", "_orig_mod."]),
        ("module.model.backbone.", ["module.", "model.backbone."]),
        ("model._orig_mod.", ["_orig_mod.", "model."]),
        ("resnet.", ["resnet."]),
    ],
)
def test_prefixes_are_stripped_and_said(
    prefix: str, said: list[str], network: nn.Module, state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(prefixed(prefix, state), tmp_path / "a.pth")
    _check(tmp_path / "a.pth", network, *(f"prefix {part!r} stripped" for part in said))


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_the_first_name_of_mobilenetv1_is_no_prefix(prefix: str, tmp_path: Path) -> None:
    model = strzoo.create_model("mobilenetv1", width=0.1, num_classes=2)
    torch.save({"state_dict": prefixed(prefix, model.state_dict())}, tmp_path / "a.pth")
    _check(tmp_path / "a.pth", model)


def test_wrappers_inside_the_network_are_taken_away(network: nn.Module, tmp_path: Path) -> None:
    wrapped = copy.deepcopy(network)
    wrapped.layer1 = nn.DataParallel(wrapped.get_submodule("layer1"))
    torch.save(wrapped.state_dict(), tmp_path / "a.pth")
    _check(tmp_path / "a.pth", network, "prefix 'module.' stripped")


def test_what_is_outside_the_prefix_is_left_out_and_said(
    network: nn.Module, state: dict[str, Tensor], tmp_path: Path
) -> None:
    lightning = prefixed("model.", state) | {"criterion.weight": torch.ones(3)}
    torch.save({"state_dict": lightning, "pytorch-lightning_version": "2.4.0"}, tmp_path / "a.ckpt")
    _check(tmp_path / "a.ckpt", network, "left out criterion.weight")
    framework = prefixed("backbone.", {k: v for k, v in state.items() if "fc." not in k})
    framework["head.fc.weight"] = state["fc.weight"].flatten(1)
    torch.save({"state_dict": framework, "meta": {"CLASSES": ["a"]}}, tmp_path / "b.pth")
    _check(tmp_path / "b.pth", network, "classifier from 'head.fc.weight'")


def test_an_average_is_taken_only_if_there_is_nothing_else_or_it_is_asked_for(
    network: nn.Module, state: dict[str, Tensor], tmp_path: Path
) -> None:
    average = AveragedModel(network, use_buffers=True)
    torch.save(average.state_dict(), tmp_path / "average.pth")
    _check(tmp_path / "average.pth", network, "left out n_averaged")
    other = small_network()
    nn.init.ones_(other.get_parameter("fc.weight"))
    both = {"model": state, "model_ema": prefixed("module.", other.state_dict())}
    torch.save(both, tmp_path / "both.pth")
    _check(tmp_path / "both.pth", network, "entry 'model_ema' holds weights too and was not taken")
    made = strzoo.convert(tmp_path / "both.pth", tmp_path / "o.pth", entry="model_ema")
    assert made.notes[0] == "weights from entry 'model_ema', an average"
    _check(tmp_path / "o.pth", other)
    with pytest.raises(UsageError, match="no entry 'ema' that holds weights; there are model, mod"):
        strzoo.read_checkpoint(tmp_path / "both.pth", entry="ema")


def test_numbers_of_other_types_become_fp32_and_are_said(
    network: nn.Module, state: dict[str, Tensor], tmp_path: Path
) -> None:
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
        expected = copy.deepcopy(network)
        expected.load_state_dict({k: v.float() if v.is_floating_point() else v
                                  for k, v in cast.items()})  # fmt: skip
        torch.save(cast, tmp_path / "a.pth")
        name = str(dtype).removeprefix("torch.")
        found = _check(tmp_path / "a.pth", expected, f"tensors from {name} to float32")
        assert {v.dtype for v in found.state_dict.values()} == {torch.float32, torch.int64}
    # An average of the buffers makes the counters floats.
    torch.save({k: v.float() for k, v in state.items()}, tmp_path / "a.pth")
    assert _check(tmp_path / "a.pth", network).state_dict["bn1.num_batches_tracked"].dim() == 0
    torch.save(state | {"conv1.weight": state["conv1.weight"].char()}, tmp_path / "b.pth")
    with pytest.raises(IntegrityError, match=r"mistyped: conv1\.weight holds torch\.int8"):
        strzoo.read_checkpoint(tmp_path / "b.pth")


def test_counters_that_old_files_lack_are_zero(
    network: nn.Module, state: dict[str, Tensor], tmp_path: Path
) -> None:
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    path = write_tar(tmp_path / "2017.pth", old)
    found = _check(path, network, "21 layers without num_batches_tracked: 0")
    assert found.state_dict.keys() == state.keys()
    assert torch.load(path, weights_only=False).keys() == old.keys()  # torch agrees on the form
    # A plain pickle holds each storage as a file of its own, or numpy arrays.
    for protocol in (2, 5):
        arrays = {k: v.numpy() for k, v in old.items()}
        for document in ({"model": old}, {"model": arrays, "__author__": "x"}):
            (tmp_path / "p.pkl").write_bytes(pickle.dumps(document, protocol))
            _check(tmp_path / "p.pkl", network)


@pytest.mark.parametrize("layout", ["coo", "csr", "bsr", "bsc"])
def test_sparse_tensors_are_written_out(layout: str, network: nn.Module, tmp_path: Path) -> None:
    pruned = copy.deepcopy(network)
    with torch.no_grad():
        for layer in prunable_layers(pruned).values():
            layer.weight[layer.weight.abs() < layer.weight.abs().quantile(0.9)] = 0
    sparse = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the layout is in beta state
        for key, value in pruned.state_dict().items():
            if value.dim() == 4 and layout == "coo":
                value = value.to_sparse()
            elif value.dim() == 4:
                value, kind = value.flatten(1), getattr(torch, f"sparse_{layout}")
                width = next(n for n in (4, 3, 1) if value.shape[1] % n == 0)
                block = {"blocksize": (1, width)} if layout.startswith("b") else {}
                value = value.to_sparse(layout=kind, **block)
            sparse[key] = value
    torch.save({"arch": "ResNet20", "state_dict": sparse}, tmp_path / "a.pth")
    found = _check(tmp_path / "a.pth", pruned, "22 sparse tensors written out")
    assert found.sparsity() == pytest.approx(90, abs=0.1)


def _zeros(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", amount=0.5)


@pytest.mark.parametrize(
    ("parametrise", "said"),
    [
        (_zeros, "22 pruning masks multiplied in"),
        (weight_norm, "22 weight norms folded"),
        (partial(weight_norm, dim=None), "22 weight norms folded"),  # type: ignore[arg-type]
        (parametrizations.weight_norm, "22 weight norms folded"),
        (spectral_norm, "22 spectral norms folded"),
        (parametrizations.spectral_norm, "22 spectral norms folded"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_weights_in_parts_are_folded(
    parametrise: Callable[[nn.Module], object], said: str, network: nn.Module, tmp_path: Path
) -> None:
    # The network that torch computes with is the independent value.
    model = copy.deepcopy(network)
    for layer in prunable_layers(model).values():
        parametrise(layer)
    model.eval()
    torch.save({"model": prefixed("module.", model.state_dict())}, tmp_path / "a.pth")
    _check(tmp_path / "a.pth", model, said, exact=False)


@pytest.mark.slow
def test_a_network_saved_whole_gives_its_weights_without_its_code(
    network: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"model": nn.DataParallel(network)}, tmp_path / "a.pt")
    with caplog.at_level(logging.INFO, "strzoo"):
        _check(tmp_path / "a.pt", network, "its code was left out", "prefix 'module.' stripped")
    assert "weights of a whole network, torch.nn.parallel" in caplog.text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is on its way out
        traced = torch.jit.trace(network, IMAGES)
        traced.save(tmp_path / "traced.pt")
        torch.jit.freeze(traced).save(tmp_path / "frozen.pt")
    _check(tmp_path / "traced.pt", network, "weights of a TorchScript file")
    with pytest.raises(IntegrityError, match=r"TorchScript file .* save the state_dict"):
        strzoo.read_checkpoint(tmp_path / "frozen.pt")


def test_views_of_one_storage_and_expanded_tensors_are_read(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    flat = torch.cat([value.flatten().float() for value in state.values()])
    views, start = dict(state), 0
    for key, value in state.items():
        if value.is_floating_point():
            views[key] = flat[start : start + value.numel()].view(value.shape)
        start += value.numel()
    views["bn1.weight"] = torch.tensor([0.5]).expand(16)
    views["conv1.weight"] = state["conv1.weight"].to(memory_format=torch.channels_last)
    expected = small_network()
    expected.load_state_dict({key: value.clone() for key, value in views.items()})
    for zipped in (True, False):
        torch.save(views, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        _check(tmp_path / "a.pth", expected, exact=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenetv1_100"])
def test_files_of_timm_compute_what_timms_network_does(name: str, tmp_path: Path) -> None:
    model = timm.create_model(name, num_classes=3).eval()
    ours = "mobilenetv1" if name.startswith("mobile") else name
    source = strzoo.build_checkpoint(dense_state(ours, num_classes=3))
    mixed = strzoo.save_checkpoint(source, tmp_path / "a.pth", layout="timm")
    model.load_state_dict(torch.load(mixed, weights_only=True))
    with torch.no_grad():
        nn.init.normal_(model.get_classifier().bias)
        for key, value in model.state_dict().items():
            if "conv_pw" in key or "conv_dw" in key:  # activations above 6, where ReLU6 differs
                value.mul_(2)
    torch.save({"arch": name, "state_dict": model.state_dict()}, tmp_path / "timm.pth")
    found = _check(tmp_path / "timm.pth", model, exact=False)
    assert found.architecture == ours
    header = {"format": "pt", "metadata": "no JSON", "architecture": name}
    save_file(model.state_dict(), tmp_path / "hub.safetensors", header)
    _check(tmp_path / "hub.safetensors", model, exact=False)
    for again in ("again.pth", "again.safetensors"):
        strzoo.convert(tmp_path / "timm.pth", tmp_path / again, layout="timm", verify=True)
        _check(tmp_path / again, model, exact=False)
    # Ours, written in timm's layout, stays what it was: with ReLU.
    assert strzoo.read_checkpoint(mixed).spec == source.spec


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mobilenet_v2", "torchvision's MobileNetV2, which is not in the zoo"),
        ("mobilenet_v3_small", "torchvision's MobileNetV3, which is not in the zoo"),
        ("resnet34", r"not a complete resnet18: unexpected: layer1\.2\.conv1\.weight"),
        ("squeezenet1_0", "of no known architecture"),
    ],
)
def test_networks_that_are_not_in_the_zoo_are_named(name: str, said: str, tmp_path: Path) -> None:
    torch.save(torchvision.models.get_model(name, num_classes=2).state_dict(), tmp_path / "a.pth")
    with pytest.raises(IntegrityError, match=said):
        strzoo.read_checkpoint(tmp_path / "a.pth")


def test_a_foreign_network_is_not_taken_for_a_published_one(tmp_path: Path) -> None:
    # Its classes, format and sparsity are those of the published dense ResNet50.
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "a.pth")
    assert strzoo.hub.resolve.resolve(tmp_path / "a.pth").card is None


def test_other_archives_are_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("weights.pth", b"")
    with pytest.raises(IntegrityError, match=r"holds 'weights\.pth'; unpack it and give that file"):
        strzoo.read_checkpoint(tmp_path / "a.pth")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with (
        zipfile.ZipFile(buffer) as source,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    with pytest.raises(IntegrityError, match="is a compressed archive"):
        strzoo.read_checkpoint(tmp_path / "b.pth")
