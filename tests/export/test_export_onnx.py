"""Export: one checked file that computes what torch computes, or none."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from torch import Tensor, nn

import strzoo
from strzoo.data.imageset import ImageSet
from strzoo.errors import (
    IntegrityError,
    StrzooError,
    UsageError,
    VerificationError,
)
from strzoo.export import export_onnx as onnx_export
from strzoo.onnx.graphs import build_graph
from strzoo.zoo.registry import get_card

COMMON = {"Conv", "Relu", "Add", "MaxPool", "GlobalAveragePool", "Flatten", "Reshape", "Gemm"}


def run(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])


def relative(expected: np.ndarray, found: np.ndarray) -> float:
    return float(np.abs(expected - found).max() / np.abs(expected).max())


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_onnxruntime_computes_what_the_str_network_computes_at_any_batch(
    resnet20_file: Path, resnet20_onnx: strzoo.OnnxExport, batch: int
) -> None:
    images = torch.randn(batch, 3, 32, 32)
    network = strzoo.load(resnet20_file, format="str")
    with torch.inference_mode():
        expected = network(images).numpy()
    assert relative(expected, run(resnet20_onnx.path, images.numpy())) < 1e-5


def test_the_file_is_self_contained_named_as_documented_and_of_common_operators(
    resnet20_onnx: strzoo.OnnxExport,
) -> None:
    model = onnx.load(resnet20_onnx.path, load_external_data=False)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 21)]
    assert {node.op_type for node in model.graph.node} <= COMMON
    (images,), (logits,) = model.graph.input, model.graph.output
    assert (images.name, logits.name) == ("images", "logits")
    assert images.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert logits.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [d.dim_value for d in images.type.tensor_type.shape.dim[1:]] == [3, 32, 32]
    names = {tensor.name for tensor in model.graph.initializer}
    assert {"conv1.weight", "layer3.2.conv2.weight", "fc.weight"} <= names
    assert b"/strzoo/" not in resnet20_onnx.path.read_bytes()  # no source paths of the exporter


def test_the_result_says_what_was_measured_and_is_stored_as_json(
    resnet20_onnx: strzoo.OnnxExport,
) -> None:
    made = resnet20_onnx
    assert made.bytes == made.path.stat().st_size
    # 90 % of each layer, rounded to whole weights; folding must not lose a zero.
    assert made.sparsity == pytest.approx(90.0, abs=0.01)
    assert made.sparsity == made.source_sparsity
    assert {(check.data, check.batch) for check in made.checks} == {
        (data, batch) for data in ("photographs", "random") for batch in (1, 3)
    }
    assert 0 < made.relative_difference < 1e-5
    assert made.largest_difference == max(check.largest_difference for check in made.checks)
    assert made.top1_agreement == 100.0
    stored = json.loads(made.report_path.read_text())
    assert made.report_path.name == "resnet20.onnx.json"
    assert stored == json.loads(json.dumps(made.to_dict()))
    assert stored["schema"] == 1


class _Small(nn.Module):
    """A convolution, a BatchNorm that matters, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv(x)).relu().mean((2, 3)))


class _Branching(_Small):
    """Python control flow on the shape, which torch.fx cannot trace."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[-1] > 4 else x * 2)


@pytest.mark.slow
@pytest.mark.parametrize("network", [_Small(), _Branching()], ids=["traceable", "branching"])
def test_batchnorm_is_folded_into_the_convolution(network: _Small, tmp_path: Path) -> None:
    with torch.no_grad():
        network.conv.weight[0] = 0
        network.bn.weight.copy_(torch.tensor([1.0, 2.0, -3.0, 0.5]))
        network.bn.bias.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
        network.bn.running_mean = torch.tensor([0.5, -0.5, 1.0, 0.0])
        network.bn.running_var = torch.tensor([4.0, 1.0, 0.25, 9.0])
    strzoo.export_onnx(network, tmp_path / "a.onnx", input_size=(3, 8, 8))
    model = onnx.load(tmp_path / "a.onnx")
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    (conv,) = [node for node in model.graph.node if node.op_type == "Conv"]
    assert not [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    # y = gamma (w x - mean) / sqrt(var + eps) + beta
    scale = np.array([1.0, 2.0, -3.0, 0.5]) / np.sqrt(np.array([4.0, 1.0, 0.25, 9.0]) + 1e-5)
    weight = network.conv.weight.detach().numpy() * scale[:, None, None, None]
    bias = np.array([0.1, 0.2, 0.3, 0.4]) - np.array([0.5, -0.5, 1.0, 0.0]) * scale
    np.testing.assert_allclose(tensors[conv.input[1]], weight, rtol=1e-5)
    np.testing.assert_allclose(tensors[conv.input[2]], bias, rtol=1e-5)
    assert (tensors[conv.input[1]][0] == 0).all()


@pytest.mark.slow
def test_weights_that_were_trained_channels_last_give_the_same_file(tmp_path: Path) -> None:
    network = strzoo.create_model("resnet20", num_classes=10)
    strzoo.export_onnx(network, tmp_path / "rows.onnx", input_size=(3, 16, 16))
    turned = network.to(memory_format=torch.channels_last)
    strzoo.export_onnx(turned, tmp_path / "channels.onnx", input_size=(3, 16, 16))
    assert (tmp_path / "channels.onnx").read_bytes() == (tmp_path / "rows.onnx").read_bytes()
    assert turned.conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_a_network_with_sparse_layers_is_exported_dense_and_left_as_it_was(
    tmp_path: Path,
) -> None:
    network = strzoo.sparsify_(_Small(), "gmp", prune_rate=0.5)
    network.train()
    before = copy.deepcopy(network.state_dict())
    made = strzoo.export_onnx(network, tmp_path / "a.onnx", input_size=(3, 8, 8))
    assert made.sparsity == 50.0  # 54 of 108 and 10 of 20 weights
    assert network.training
    assert isinstance(network.conv, strzoo.GMPConv2d)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.slow
def test_a_fixed_batch_with_softmax_and_built_in_preprocessing(
    resnet20_file: Path, tmp_path: Path
) -> None:
    made = strzoo.export_onnx(
        resnet20_file, tmp_path / "a.onnx", batch=2, softmax=True, preprocessing=True
    )
    assert (made.input_type, made.input_shape) == ("uint8", (2, 32, 32, 3))
    assert (made.output_name, made.output_shape) == ("probabilities", (2, 10))
    assert {check.batch for check in made.checks} == {2}
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    found = run(made.path, pixels)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    with torch.inference_mode():
        logits = strzoo.load(resnet20_file)(torch.from_numpy(images)).numpy().astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert relative(expected, found) < 1e-5
    operators = {node.op_type for node in onnx.load(made.path).graph.node}
    assert operators <= COMMON | {"Transpose", "Cast", "Sub", "Mul", "Softmax"}


@pytest.mark.slow
def test_card_preprocessing_and_class_names_are_stored_as_metadata(
    resnet20_file: Path, tmp_path: Path
) -> None:
    names = [f"klasse é {n}" for n in range(10)]
    strzoo.export_onnx(resnet20_file, tmp_path / "a.onnx", class_names=names)
    stored = {e.key: e.value for e in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert json.loads(stored["strzoo.class_names"]) == names
    assert float(stored["strzoo.sparsity"]) == pytest.approx(90.0, abs=0.01)
    assert json.loads(stored["strzoo.preprocessing"])["mean"] == [0.485, 0.456, 0.406]
    with pytest.raises(UsageError, match="3 class names were given for 10 classes"):
        strzoo.export_onnx(resnet20_file, tmp_path / "b.onnx", class_names=names[:3])


@pytest.mark.slow
def test_a_published_network_is_recognised_and_carries_its_card(
    str_file: Path, tmp_path: Path
) -> None:
    made = strzoo.export_onnx(str_file, tmp_path / "a.onnx", input_size=(3, 64, 64))
    card = get_card("mobilenetv1_str_75.28")
    assert made.model == card.id
    assert made.metadata["strzoo.source"] == card.source
    assert made.metadata["strzoo.license"] == card.license
    assert json.loads(made.metadata["strzoo.published"])["top1"] == card.published.top1
    assert json.loads(made.metadata["strzoo.class_names"])[:2] == ["tench", "goldfish"]


@pytest.mark.slow
@pytest.mark.parametrize("opset", [16, 18, 20])
def test_the_opset_is_the_one_asked_for(opset: int, tmp_path: Path) -> None:
    made = strzoo.export_onnx(_Small(), tmp_path / "a.onnx", input_size=(3, 8, 8), opset=opset)
    model = onnx.load(made.path)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    assert made.opset == opset


@pytest.mark.parametrize("opset", [14, 99])
def test_an_opset_out_of_range_is_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"opset {opset} is not between 15 and"):
        strzoo.export_onnx(_Small(), tmp_path / "a.onnx", input_size=(3, 8, 8), opset=opset)


@pytest.mark.slow
def test_another_opset_in_the_file_than_asked_for_is_an_error_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*args: Any, opset: int, **options: Any) -> onnx.ModelProto:
        return build_graph(*args, opset=19, **options)

    monkeypatch.setattr(onnx_export, "build_graph", wrong)
    with pytest.raises(VerificationError, match=r"opset 20 was asked for, the file says.*19"):
        strzoo.export_onnx(_Small(), tmp_path / "a.onnx", input_size=(3, 8, 8), opset=20)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_weights_that_changed_on_the_way_fail_the_check_and_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*args: Any, **options: Any) -> onnx.ModelProto:
        model = build_graph(*args, **options)
        tensor = next(t for t in model.graph.initializer if t.name == "conv.weight")
        changed = numpy_helper.to_array(tensor) * np.float32(1.001)
        tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
        return model

    monkeypatch.setattr(onnx_export, "build_graph", damaged)
    with pytest.raises(VerificationError, match=r"differs from torch by .* nothing was written"):
        strzoo.export_onnx(_Small(), tmp_path / "a.onnx", input_size=(3, 8, 8))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_check_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_text("mine")
    with pytest.raises(VerificationError):
        strzoo.export_onnx(_Small(), path, input_size=(3, 8, 8), tolerance=0.0, force=True)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_reduced_precision_keeps_zeros_and_the_digits_predictions(
    digits_network: tuple[nn.Module, ImageSet, ImageSet], precision: str, tmp_path: Path
) -> None:
    network, train, test = digits_network
    whole = strzoo.export_onnx(network, tmp_path / "fp32.onnx", input_size=(3, 8, 8))
    made = strzoo.export_onnx(
        network,
        tmp_path / "less.onnx",
        input_size=(3, 8, 8),
        precision=precision,
        images=train,
        min_agreement={"fp16": 99.0, "int8": 98.0}[precision],  # of int8, one of the 64 may differ
    )
    expected, found = (strzoo.evaluate(made.path, test) for made in (whole, made))
    assert expected.top1 > 90  # it has learned something that precision could lose
    same = float((expected.predictions == found.predictions).float().mean())
    assert same >= 0.99
    assert made.bytes < whole.bytes * {"fp16": 0.55, "int8": 0.35}[precision]
    assert made.sparsity >= whole.sparsity
    dense = {t.name: numpy_helper.to_array(t) for t in onnx.load(whole.path).graph.initializer}
    for tensor in onnx.load(made.path).graph.initializer:
        name = tensor.name.removesuffix("_quantized")
        if name.endswith(".weight"):
            stored = numpy_helper.to_array(tensor)
            assert stored.dtype == {"fp16": np.float16, "int8": np.int8}[precision]
            assert (stored[dense[name] == 0] == 0).all()
        if name.endswith(".weight_zero_point"):
            assert (numpy_helper.to_array(tensor) == 0).all()


@pytest.mark.slow
def test_too_little_agreement_with_fp32_leaves_no_file(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():  # the two classes differ by less than fp16 can tell
        network[0].weight.fill_(1)
        network[0].weight[1] += 2**-20
    images = torch.ones(4, 3, 4, 4)
    with pytest.raises(VerificationError, match=r"0\.00 % top-1 agreement.*less than the 99.00 %"):
        strzoo.export_onnx(
            network,
            tmp_path / "a.onnx",
            input_size=(3, 4, 4),
            precision="fp16",
            images=images,
            min_agreement=99,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_folder_of_the_users_images_is_used_for_the_checks(
    resnet20_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images" / "nested"
    folder.mkdir(parents=True)
    for index in range(4):
        values = np.random.default_rng(index).integers(0, 256, (50, 40 + index, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{index}.png")
    made = strzoo.export_onnx(
        resnet20_file, tmp_path / "a.onnx", precision="int8", images=folder.parent
    )
    checks = {(c.data, c.batch): c.images for c in made.checks}
    assert checks[str(folder.parent), 3] == 3  # one whole batch of 3 of the four images
    (folder / "4.jpg").write_bytes(b"no image")
    with pytest.raises(IntegrityError, match=r"4\.jpg: no image format is known"):
        strzoo.export_onnx(resnet20_file, tmp_path / "b.onnx", images=folder.parent)


def test_bad_arguments_are_named_before_anything_is_written(
    resnet20_file: Path, resnet20_onnx: strzoo.OnnxExport, tmp_path: Path
) -> None:
    small, target = _Small(), tmp_path / "a.onnx"
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, message in (
        ((small, tmp_path / "a.pb"), "must end in .onnx"),
        ((small, tmp_path / "none" / "a.onnx"), "its folder does not exist"),
        ((small, resnet20_onnx.path), "exists; pass --force"),
        ((resnet20_onnx.path, target), "is an ONNX file already"),
    ):
        with pytest.raises(StrzooError, match=message):
            strzoo.export_onnx(*arguments)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"precision": "int4"}, "'int4' is not one of fp32, fp16, int8"),
        ({"batch": 0}, "batch is 0"),
        ({"input_size": (3, 0, 8)}, "is not a side, .* or .channels, height, width"),
        ({"input_size": (7, 8, 8), "images": torch.zeros(1, 7, 8, 8)}, "pass the input size"),
        ({"images": empty}, "has no images"),
        ({"images": "nowhere"}, "nowhere is not a folder of images; the bundled sets are"),
        ({"images": torch.zeros(2, 3, 9, 9)}, r"takes \(N, 3, 8, 8\)"),
    ]
    for options, message in refused:
        with pytest.raises(StrzooError, match=message):
            strzoo.export_onnx(small, target, **{"input_size": (3, 8, 8), **options})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


class _Untraceable(_Small):
    """Values decide the way: no exporter can follow, and the older one would take one branch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


@pytest.mark.slow
def test_a_network_that_chooses_by_values_is_not_exported_with_one_of_its_branches(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    with pytest.raises(StrzooError):
        strzoo.export_onnx(_Untraceable(), tmp_path / "a.onnx", input_size=(3, 8, 8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("size", "steps"), [(64, (73, 64)), ((48, 96), (256, 224)), (32, (32, 32))]
)
def test_the_file_says_how_to_prepare_images_of_the_size_it_takes(
    tmp_path: Path, size: Any, steps: tuple[int, int]
) -> None:
    network = strzoo.create_model("resnet18", num_classes=3)
    made = strzoo.export_onnx(network, tmp_path / "a.onnx", input_size=size)
    said = json.loads(made.metadata["strzoo.preprocessing"])
    assert (said["resize"], said["crop"]) == steps  # 64 x 256 / 224 is 73
    height, width = (size, size) if isinstance(size, int) else size
    assert (said["input_height"], said["input_width"]) == (height, width)
