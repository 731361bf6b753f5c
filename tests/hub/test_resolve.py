"""resolve: what a MODEL is, asked once, and what its Source knows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import strzoo
from strzoo.errors import IntegrityError, UnknownNameError, UsageError
from strzoo.hub.resolve import resolve
from strzoo.settings import Settings
from strzoo.version import VERSION
from tests.conftest import CliResult
from tests.helpers.published import str_state, write_published

NAME = "mobilenetv1_str_75.28"
IMAGENET_MEAN = (0.485, 0.456, 0.406)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Path]:
    """A cache with the STR file of one model, and that file."""
    folder = tmp_path_factory.mktemp("cache")
    path = write_published(folder / f"{NAME}-str.pth", str_state("mobilenetv1", 75.28))
    return Settings(cache_dir=folder, offline=True), path


def test_an_id_is_known_by_its_card_and_no_file_is_opened(tmp_path: Path) -> None:
    source = resolve("resnet50_str_90", settings=Settings(cache_dir=tmp_path, offline=True))
    assert (source.kind, source.name) == ("id", "resnet50_str_90.23")
    assert source.architecture == "resnet50"
    assert source.input_size == (3, 224, 224)
    assert source.preprocessing.mean == IMAGENET_MEAN
    assert source.preprocessing == source.stated_preprocessing
    assert source.class_names[:2] == ("tench", "goldfish")
    assert list(tmp_path.iterdir()) == []


def test_a_published_file_anywhere_is_recognised_by_its_content(
    cached: tuple[Settings, Path],
) -> None:
    settings, path = cached
    source = resolve(path, settings=settings)
    assert (source.kind, source.name) == ("checkpoint", NAME)
    assert source.card == strzoo.get_card(NAME)
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert resolve(NAME, settings=settings).sha256 == source.sha256
    assert len(source.class_names) == 1000


def test_a_small_network_of_ones_own_has_no_card_and_small_images(resnet20_file: Path) -> None:
    source = resolve(str(resnet20_file))
    assert (source.name, source.card) == ("resnet20.pth", None)
    assert source.input_size == (3, 32, 32)
    assert (source.preprocessing.resize, source.preprocessing.crop) == (32, 32)
    assert source.stated_preprocessing is None
    assert source.class_names == ()


def test_a_checkpoint_in_memory_and_a_network_are_hashed_by_their_tensors() -> None:
    network = strzoo.create_model("resnet20")
    state = network.state_dict()
    expected = hashlib.sha256()
    for name, value in state.items():
        expected.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        expected.update(value.numpy().tobytes())
    assert resolve(network).sha256 == expected.hexdigest()
    assert resolve(strzoo.build_checkpoint(network)).sha256 == expected.hexdigest()
    assert resolve(network).kind == "module"
    assert resolve(network).build_network() is network


def test_a_run_folder_means_its_best_checkpoint(tmp_path: Path) -> None:
    network = strzoo.create_model("resnet20")
    strzoo.save_checkpoint(network, tmp_path / "best_dense.pth")
    assert resolve(tmp_path).path == tmp_path / "best_dense.pth"
    strzoo.sparsify_(network, "str")
    strzoo.save_checkpoint(network, tmp_path / "best_str.pth")
    assert resolve(str(tmp_path)).path == tmp_path / "best_str.pth"
    assert resolve(tmp_path, format="dense").path == tmp_path / "best_dense.pth"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"is a folder without best_str\.pth or best_dense\.pth"):
        resolve(tmp_path / "empty")


def test_what_is_no_model_is_named() -> None:
    with pytest.raises(UsageError, match="a int is no model; give a model id"):
        resolve(3)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="no model is named"):
        resolve("resnet999")
    with pytest.raises(UsageError, match="format 'int4' is not one of str, dense"):
        resolve("resnet50_dense", format="int4")


@pytest.mark.slow
def test_an_onnx_export_says_what_it_is_and_ones_own_registry_counts(
    resnet20_onnx: strzoo.OnnxExport, tmp_path: Path
) -> None:
    published = {"params": "0.03M", "sparsity": 90.0, "top1": 91.0, "flops": "4M"}
    card = json.loads((Path(__file__).parents[2] / "checkpoints.json").read_text())["defaults"]
    card |= {
        "id": "resnet20_str_90.00", "architecture": "resnet20", "method": "str",
        "published": published, "num_classes": 10, "dataset": "cifar10",
        "files": {"str": {"url": "https://example.org/a.pth"}},
        "preprocessing": {
            "resize": 32, "crop": 32, "interpolation": "bilinear",
            "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2],
        },
    }  # fmt: skip
    registry = tmp_path / "own.json"
    registry.write_text(json.dumps({"schema": 1, "models": [card]}))
    settings = Settings(cache_dir=tmp_path, registries=(registry,))
    model = onnx.load(resnet20_onnx.path)
    for entry in model.metadata_props:
        if entry.key == "strzoo.model":
            entry.value = "resnet20_str_90.00"
    onnx.save(model, tmp_path / "own.onnx")
    source = resolve(tmp_path / "own.onnx", settings=settings)
    assert source.kind == "onnx"
    assert source.card is not None
    assert source.card.published.top1 == 91.0
    assert source.architecture == "resnet20"
    assert source.input_size == (3, 32, 32)
    # A plan of it knows the same.
    plan = tmp_path / "own.strz"
    pytest.importorskip("llvmlite")
    strzoo.compile(tmp_path / "own.onnx", settings=settings).save(plan)
    compiled = resolve(plan, settings=settings)
    assert (compiled.kind, compiled.card) == ("plan", source.card)
    assert compiled.preprocessing == source.preprocessing
    assert compiled.sha256 == source.sha256
    with pytest.raises(UsageError, match="compiled plan of the sparse engine; give the model"):
        strzoo.load(plan)


def test_metadata_that_cannot_be_read_is_a_fault_of_the_file(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(n, 1, [1, 3, 8, 8]) for n in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:]))
    model.metadata_props.add(key="strzoo.preprocessing", value="{}")
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(IntegrityError, match=r"bad\.onnx: its strzoo\.preprocessing is not"):
        _ = resolve(tmp_path / "bad.onnx").preprocessing


class _Counter:
    """hashlib.sha256 that counts how often data that starts like `head` is hashed."""

    def __init__(self, head: bytes) -> None:
        self.head, self.count, self.original = head, 0, hashlib.sha256

    def __call__(self, data: bytes = b"", **options: Any) -> Any:
        outer, inner = self, self.original(**options)

        class Digest:
            def update(self, block: Any) -> None:
                outer.count += bytes(memoryview(block).cast("B")[: len(outer.head)]) == outer.head
                inner.update(block)

            def hexdigest(self) -> str:
                return inner.hexdigest()

            def digest(self) -> bytes:
                return inner.digest()

        made = Digest()
        if data:
            made.update(data)
        return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("id", ["report", "MODEL"]),
        ("file", ["convert", "MODEL", "out.pth"]),
        ("id", ["convert", "MODEL", "out.pth"]),
        ("file", ["verify", "MODEL"]),
        ("id", ["evaluate", "MODEL", "--data", "DATA", "--crop", "40", "--workers", "0"]),
        ("file", ["evaluate", "MODEL", "--data", "DATA", "--crop", "32", "--engine", "sparse"]),
        ("file", ["predict", "MODEL", "DATA/a/0.png", "--crop", "32"]),
        ("id", ["compile", "MODEL", "--input-size", "32", "-o", "out.strz"]),
        ("file", ["matrices", "MODEL", "-o", "matrices", "--input-size", "32"]),
    ],
)
def test_no_file_is_read_or_hashed_twice_in_one_command(
    command: list[str],
    kind: str,
    cached: tuple[Settings, Path],
    cli: Callable[..., CliResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from PIL import Image

    settings, path = cached
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (48, 40), (90, 120, 30)).save(tmp_path / "data" / name / "0.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRZOO_HOME", str(settings.cache_dir))
    counter = _Counter(path.read_bytes()[:4096])
    monkeypatch.setattr(hashlib, "sha256", counter)
    reads = []
    original = torch.load

    def load(file: Any, **options: Any) -> Any:
        reads.append(file)
        return original(file, **options)

    monkeypatch.setattr(torch, "load", load)
    model = NAME if kind == "id" else str(path)
    words = [model if w == "MODEL" else w.replace("DATA", str(tmp_path / "data")) for w in command]
    result = cli(*words, "-q")
    # 2 classes of data do not fit 1000; the MACs of a uniform budget are not the published ones.
    assert result.code in (0, 2, 6), result.err
    if result.code == 2:
        assert "classes" in result.err
    assert counter.count <= 1
    assert len(reads) <= 1


class _Tiny(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def test_a_source_is_taken_everywhere(resnet20_file: Path, tmp_path: Path) -> None:
    source = resolve(resnet20_file)
    images = torch.rand(4, 3, 32, 32)
    assert strzoo.report(source).sparsity == pytest.approx(90.0, abs=0.1)
    result = strzoo.evaluate(source, [(images, torch.zeros(4, dtype=torch.long))])
    assert result.images == 4
    assert strzoo.convert(source, tmp_path / "a.pth").architecture == "resnet20"
    assert strzoo.load(source)(images).shape == (4, 10)
    assert strzoo.report(resolve(_Tiny())).params == 0
    assert resolve(source) is source
    assert VERSION


def test_a_network_in_memory_is_known_as_its_file_is(tmp_path: Path) -> None:
    """By what timm has noted on it, or by its architecture."""
    timm = pytest.importorskip("timm")
    for network in (
        timm.create_model("test_vit", num_classes=3),
        strzoo.create_model("resnet20", num_classes=3),
        strzoo.sparsify_(strzoo.create_model("resnet20"), "str"),
    ):
        file = tmp_path / "network.pth"
        strzoo.save_checkpoint(network, file, force=True)
        here, there = resolve(network), resolve(file)
        assert here.input_size == there.input_size != (3, 224, 224)
        assert here.preprocessing == there.preprocessing
    assert resolve(timm.create_model("test_vit")).preprocessing.mean == (0.5, 0.5, 0.5)
    for own in (nn.Conv2d(3, 4, 3), nn.Identity()):
        assert resolve(own).input_size == (3, 224, 224)


def test_a_network_in_memory_is_called_what_create_model_calls_it() -> None:
    ours = strzoo.create_model("resnet20", num_classes=7, layer="str")
    assert resolve(ours).architecture == "resnet20"
    assert resolve(nn.DataParallel(ours)).architecture == "resnet20"
    assert resolve(strzoo.create_model("torchvision:resnet18")).architecture == (
        "torchvision:resnet18"
    )
    ours.layer1[0].conv1 = nn.Conv2d(16, 16, 1)  # another network of the same class
    assert resolve(ours).architecture == "CifarResNet"
    assert resolve(nn.Sequential(nn.Conv2d(3, 4, 3))).architecture == "Sequential"
