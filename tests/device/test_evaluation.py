"""Evaluation on the device: the CPU's counts, or which images differ and by how much."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import strzoo
from strzoo.evaluation.loop import Loop
from tests.helpers.photographs import reference_logits, small_network, write_class_folders

COUNT = 120
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Path]]:
    """A checkpoint file, class folders, and their images in the order of evaluation."""
    folder = tmp_path_factory.mktemp("device")
    names = [f"class{i}" for i in range(10)]
    paths = write_class_folders(folder / "set", names, [i % 10 for i in range(COUNT)])
    strzoo.save_checkpoint(strzoo.build_checkpoint(small_network()), folder / "model.pth")
    return folder / "model.pth", folder / "set", sorted(paths)


@pytest.fixture(scope="module")
def logits(work: tuple[Path, Path, list[Path]]) -> torch.Tensor:
    """Of plain PIL and torch on the CPU, one image after the other."""
    return reference_logits(small_network(), work[2], resize=32, crop=32)


def describe_differences(
    found: torch.Tensor, logits: torch.Tensor, paths: list[Path]
) -> dict[str, float]:
    """The images whose answer is another than the CPU's, with the margin that it had there."""
    best = logits.topk(2, dim=1).values
    return {
        paths[i].name: round(float(best[i, 0] - best[i, 1]), 6)
        for i in torch.nonzero(found.cpu() != logits.argmax(1)).flatten().tolist()
    }


@pytest.mark.parametrize("channels_last", [True, False], ids=["channels-last", "contiguous"])
def test_fp32_counts_are_those_of_the_cpu_but_for_ties(
    channels_last: bool, device: torch.device, work: tuple[Path, Path, list[Path]],
    logits: torch.Tensor, record_property: Record,
) -> None:  # fmt: skip
    model, data, paths = work
    found = strzoo.evaluate(
        model, data, device=device, precision="fp32", channels_last=channels_last, workers=0,
        batch_size=50,
    )  # fmt: skip
    different = describe_differences(found.predictions, logits, paths)
    labels = torch.tensor([int(path.parent.name.removeprefix("class")) for path in paths])
    record_property("top-1", f"{found.correct_top1}, CPU {int((logits.argmax(1) == labels).sum())}")
    record_property("images that differ, with their margins", different or "none")
    assert all(margin < 1e-4 for margin in different.values())
    assert found.loss == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_other_precisions_answer_nearly_as_the_cpu_in_fp32(
    precision: str, device: torch.device, work: tuple[Path, Path, list[Path]],
    logits: torch.Tensor, record_property: Record,
) -> None:  # fmt: skip
    if device.type == "cpu" and precision == "tf32":
        pytest.skip("tf32 is a GPU's")
    model, data, paths = work
    found = strzoo.evaluate(model, data, device=device, precision=precision, workers=0)
    different = describe_differences(found.predictions, logits, paths)
    record_property(f"images of {COUNT} that differ, with their margins", different or "none")
    assert found.precision == precision
    assert len(different) <= COUNT // 10


@pytest.mark.cuda
def test_a_compiled_network_answers_as_the_cpu(
    gpu: torch.device, work: tuple[Path, Path, list[Path]], logits: torch.Tensor
) -> None:
    model, data, paths = work
    found = strzoo.evaluate(
        model, data, device=gpu, precision="fp32", compile=True, workers=0, batch_size=COUNT
    )
    different = describe_differences(found.predictions, logits, paths)
    assert all(margin < 1e-3 for margin in different.values()), different


def test_out_of_memory_halves_the_batch_and_counts_the_same(
    device: torch.device, work: tuple[Path, Path, list[Path]],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    model, data, _ = work
    whole = strzoo.evaluate(model, data, device=device, precision="fp32", workers=0, batch_size=40)
    fill = Loop._fill

    def limited(loop: Loop, piece: torch.Tensor) -> torch.Tensor:
        if len(piece) > 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return fill(loop, piece)

    monkeypatch.setattr(Loop, "_fill", limited)
    parts = strzoo.evaluate(model, data, device=device, precision="fp32", workers=0, batch_size=40)
    assert torch.equal(parts.predictions, whole.predictions)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    said = [r.message for r in caplog.records if "out of memory" in r.message]
    assert said[-1] == "out of memory: going on with 10 images at once"


@pytest.mark.cuda
def test_a_gpu_whose_memory_is_too_small_evaluates_with_fewer_images(
    gpu: torch.device, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    # 512 images are 822 MB a layer at first; the process may have 1.5 GB.
    total = torch.cuda.get_device_properties(gpu).total_memory
    write_class_folders(tmp_path / "set", [f"class{i}" for i in range(10)], [0] * 512)
    model = strzoo.create_model("resnet50", num_classes=10).to(gpu)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.5e9 / total, gpu)
    try:
        found = strzoo.evaluate(model, tmp_path / "set", batch_size=512, precision="fp32")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, gpu)
    assert found.images == 512
    assert any("out of memory: going on with" in r.message for r in caplog.records)


def test_decoding_on_the_device_states_what_it_changes(
    device: torch.device, work: tuple[Path, Path, list[Path]], record_property: Record
) -> None:
    model, data, _ = work
    found = strzoo.evaluate(
        model, data, device=device, precision="fp32", decoder="device", workers=0
    )
    check = found.decoder_check
    assert check is not None
    assert check.images == COUNT
    record_property("top-1 less that of PIL, points", f"{check.top1 - check.pil_top1:+.2f}")
    record_property("predictions that differ", f"{check.different_predictions} of {COUNT}")
    assert check.different_predictions <= COUNT // 5


@pytest.mark.cuda
def test_onnxruntime_on_a_gpu_answers_as_the_cpu(
    gpu: torch.device, work: tuple[Path, Path, list[Path]], logits: torch.Tensor, tmp_path: Path
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime has no CUDA provider here")
    made = strzoo.export_onnx(work[0], tmp_path / "model.onnx").path
    found = strzoo.evaluate(made, work[1], providers=["CUDAExecutionProvider"], workers=0)
    different = describe_differences(found.predictions, logits, work[2])
    assert all(margin < 1e-2 for margin in different.values()), different
