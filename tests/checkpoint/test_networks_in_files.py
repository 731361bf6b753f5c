"""Where in a file the network is, whatever training code keeps beside it: averages, other networks,
counters, masks, parts in several files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import strzoo
from strzoo.errors import IntegrityError, StrzooError
from strzoo.hub.resolve import resolve
from tests.helpers.foreign import prefixed, small_network
from tests.helpers.hugging_face import store_as_snapshot

State = dict[str, Tensor]
STATE: State = dict(small_network().state_dict())
WEIGHTS = [key for key, value in STATE.items() if value.dim() == 4]
OTHER: State = {key: value + 1 for key, value in STATE.items()}
GENERATOR = torch.Generator().manual_seed(3)
MASKS: State = {
    key: (torch.rand(STATE[key].shape, generator=GENERATOR) < 0.5).float() for key in WEIGHTS
}
MASKED: State = {key: value * MASKS.get(key, 1) for key, value in STATE.items()}
LAYERS = {key.rpartition(".")[0]: key for key in STATE if key.endswith("weight")}


def _check(path: Path, expected: State, *notes: str) -> None:
    found = strzoo.read_checkpoint(path)
    assert found.state_dict.keys() == expected.keys()
    assert all(torch.equal(found.state_dict[key], expected[key]) for key in expected)
    told = "; ".join(found.notes)
    assert all(note in told for note in notes), told


# What is saved, and what is said of it.
BESIDE: dict[str, tuple[Any, list[str]]] = {
    "MoCo": (
        {"state_dict": {**prefixed("module.encoder_q.", STATE),
                        **prefixed("module.encoder_k.", OTHER), "module.queue": torch.ones(2, 3)}},
        ["prefix 'encoder_q.' stripped", "left out encoder_k.conv1.weight"],
    ),
    "distillation": (
        {**prefixed("teacher.model.", OTHER), **prefixed("student.model.", STATE)},
        ["prefix 'student.model.' stripped", "left out teacher.model."],
    ),
    "DINO": (
        {"teacher": prefixed("backbone.", OTHER), "student": prefixed("module.backbone.", STATE)},
        ["weights from entry 'student'", "entry 'teacher' holds weights too"],
    ),
    "mmengine's average": (
        {"state_dict": {**prefixed("backbone.", {k: v for k, v in STATE.items() if "fc" not in k}),
                        "head.fc.weight": STATE["fc.weight"].flatten(1),
                        "ema_backbone_conv1_weight": OTHER["conv1.weight"]}},
        ["classifier from 'head.fc.weight'", "left out ema_backbone_conv1_weight"],
    ),
    "a normalisation in front": (
        {**prefixed("1.", STATE), "0.mean": torch.ones(3)},
        ["prefix '1.' stripped", "left out 0.mean"],
    ),
    "features with a loss": (
        {**prefixed("feature_extractor.", STATE), "loss.weight": torch.ones(3)},
        ["prefix 'feature_extractor.' stripped", "left out loss.weight"],
    ),
    "thop": (
        {**STATE, "total_ops": torch.ones(1), **{f"{name}.total_params": torch.ones(1, dtype=
         torch.float64) for name in LAYERS}},
        ["left out total_ops, conv1.total_params"],
    ),
    "a list": ([STATE, {"lr": 0.1}], ["weights from entry '0'"]),
    "a tuple": ((7, {"model": STATE}), ["weights from entry '1' > 'model'"]),
    "unknown names": ({"checkpoint": {"best": {"wts": STATE}}, "lr": 1.0},
                      ["weights from entry 'checkpoint' > 'best' > 'wts'"]),
}  # fmt: skip


@pytest.mark.parametrize("form", BESIDE)
def test_the_trained_network_is_found_and_what_is_beside_it_said(form: str, tmp_path: Path) -> None:
    document, notes = BESIDE[form]
    torch.save(document, tmp_path / "a.pth")
    _check(tmp_path / "a.pth", STATE, *notes)


ONES: State = {key: torch.ones_like(mask) for key, mask in MASKS.items()}
MASKINGS: dict[str, Any] = {
    "an entry by keys": {"state_dict": prefixed("module.", STATE),
                         "masks": prefixed("module.", MASKS)},
    "an entry by layers": {"model": STATE, "mask_dict": {
        name: MASKS[key].bool() for name, key in LAYERS.items() if key in MASKS}},
    "buffers": {**STATE, **{key.replace("weight", "mask"): m for key, m in MASKS.items()}},
    "torch's names": prefixed("model.", {**STATE, **{f"{k}_mask": m for k, m in MASKS.items()}}),
}  # fmt: skip


@pytest.mark.parametrize("form", MASKINGS)
def test_masks_beside_the_weights_are_multiplied_in(form: str, tmp_path: Path) -> None:
    torch.save(MASKINGS[form], tmp_path / "a.pth")
    _check(tmp_path / "a.pth", MASKED, f"{len(MASKS)} pruning masks multiplied in")


@pytest.mark.parametrize(
    "name", ["old_masks", "initial_mask", "mask_grads", "MaskHead", "ema_masks", "attention_mask"]
)
def test_masks_of_another_name_are_left_out_and_said(name: str, tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "masks": MASKS, name: ONES}, tmp_path / "a.pth")
    _check(tmp_path / "a.pth", MASKED, f"'{name}' not applied")
    zeros = {key: torch.zeros_like(mask) for key, mask in MASKS.items()}
    torch.save({"state_dict": STATE, name: zeros}, tmp_path / "a.pth")
    _check(tmp_path / "a.pth", STATE, f"'{name}' not applied")


@pytest.mark.parametrize("name", ["mask", "pruning_masks", "weightMask", "mask_state_dict"])
def test_masks_that_disagree_are_refused_by_their_names(name: str, tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, name: MASKS}, tmp_path / "a.pth")
    _check(tmp_path / "a.pth", MASKED)
    torch.save({"state_dict": STATE, "masks": MASKS, name: MASKS}, tmp_path / "a.pth")
    _check(tmp_path / "a.pth", MASKED)
    torch.save({"state_dict": STATE, "masks": MASKS, name: ONES}, tmp_path / "a.pth")
    with pytest.raises(IntegrityError, match=f"'{name}' and 'masks' hold different pruning masks"):
        strzoo.read_checkpoint(tmp_path / "a.pth")


def test_masks_of_a_file_and_of_an_entry_in_it_must_agree(tmp_path: Path) -> None:
    inner = {"state_dict": STATE, "masks": MASKS}
    torch.save({"model": inner, "masks": ONES}, tmp_path / "a.pth")
    with pytest.raises(IntegrityError, match="'model' > 'masks' and 'masks' hold different"):
        strzoo.read_checkpoint(tmp_path / "a.pth")
    own = {**STATE, **{f"{key}_mask": mask for key, mask in MASKS.items()}}
    torch.save({"state_dict": own, "masks": ONES}, tmp_path / "a.pth")
    with pytest.raises(IntegrityError, match="'masks' and the state dict hold different"):
        strzoo.read_checkpoint(tmp_path / "a.pth")


def test_masks_that_are_not_of_zeros_and_ones_are_said(tmp_path: Path) -> None:
    soft = {key: mask * 0.5 for key, mask in MASKS.items()}
    torch.save({"state_dict": STATE, "masks": soft}, tmp_path / "a.pth")
    _check(tmp_path / "a.pth", STATE, "'masks' holds other numbers than 0 and 1: not applied")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({**prefixed("a.", STATE), **prefixed("b.", STATE)}, r"2 networks, below 'a\.', 'b\.'"),
        ({"last": {"model": STATE}, "best": {"model": STATE}},
         r"2 entries hold weights \('last', 'best'\): convert --entry"),
        ({"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}},
         "a mapping with 'optimizer', not a state dict"),
        (list(STATE.values()), "a list, not a state dict"),
        ({**STATE, "conv1.mask": torch.full(STATE["conv1.weight"].shape, 0.3)},
         "unexpected: conv1.mask"),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_said(document: Any, said: str, tmp_path: Path) -> None:
    torch.save(document, tmp_path / "a.pth")
    with pytest.raises(IntegrityError, match=said):
        strzoo.read_checkpoint(tmp_path / "a.pth")


def test_quantised_tensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    ones = torch.ones(3, dtype=torch.int8)
    torch.save({"conv1.weight": ones}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"CharStorage", b"QInt8Storage"))
    with pytest.raises(
        IntegrityError, match=r"a\.pth: it holds quantised tensors \(QInt8Storage\)"
    ):
        strzoo.read_checkpoint(path)


PARTS = [(save_file, ("model", ".safetensors")), (torch.save, ("pytorch_model", ".bin"))]


def _write_parts(folder: Path, save: Callable[[State, Path], object], stem: str) -> Path:
    keys = list(STATE)
    places: dict[str, str] = {}
    for number, part in enumerate((keys[:50], keys[50:])):
        name = f"{stem[0]}-{number}{stem[1]}"
        save({key: STATE[key].contiguous() for key in part}, folder / name)
        places |= dict.fromkeys(part, name)
    index = folder / f"{''.join(stem)}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


@pytest.mark.parametrize(("save", "stem"), PARTS)
def test_weights_in_several_files_are_read_by_their_index_or_folder(
    save: Callable[[State, Path], object], stem: Any, tmp_path: Path
) -> None:
    index = _write_parts(tmp_path, save, stem)
    for path in (index, tmp_path):
        _check(path, STATE, "weights from 2 files")
    before = resolve(index).sha256
    save({"x": torch.ones(1)}, tmp_path / f"{stem[0]}-1{stem[1]}")
    assert resolve(index).sha256 != before
    with pytest.raises(IntegrityError, match="does not hold"):
        strzoo.read_checkpoint(index)
    (tmp_path / f"{stem[0]}-1{stem[1]}").unlink()
    with pytest.raises(StrzooError, match=r"does not exist; .*refers to it"):
        strzoo.read_checkpoint(index)
    index.write_text(json.dumps({"weight_map": {"a": "../b.bin"}}))
    with pytest.raises(IntegrityError, match="outside its own folder"):
        strzoo.read_checkpoint(index)
    index.write_text('{"weight_map": 3}')
    with pytest.raises(IntegrityError, match="weight_map"):
        strzoo.read_checkpoint(index)


@pytest.mark.parametrize(("save", "stem"), PARTS)
def test_weights_in_several_files_are_read_from_hugging_faces_cache(
    save: Callable[[State, Path], object], stem: Any, tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    name = _write_parts(tmp_path / "plain", save, stem).name
    snapshot = store_as_snapshot(tmp_path / "plain", tmp_path / "cache")
    for path in (snapshot / name, snapshot):
        _check(path, STATE, "weights from 2 files")
    part = snapshot / f"{stem[0]}-1{stem[1]}"
    outside = part.resolve().rename(tmp_path / "outside")
    part.unlink()
    part.symlink_to(outside)
    with pytest.raises(IntegrityError, match="a link: only files beside it are read"):
        strzoo.read_checkpoint(snapshot)
