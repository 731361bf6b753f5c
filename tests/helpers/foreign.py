"""Checkpoint files as other people's code writes them, all of one small network."""

from __future__ import annotations

import argparse
import collections
import enum
import io
import pathlib
import pickle
import struct
import sys
import tarfile
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import strzoo
from tests.helpers.published import dense_state


def small_network() -> nn.Module:
    """A ResNet20 of 3 classes, in evaluation mode, whose BatchNorms are not the identity."""
    model = strzoo.create_model("resnet20", num_classes=3)
    model.load_state_dict(dense_state("resnet20", num_classes=3))
    return model.eval()


@contextmanager
def foreign_values() -> Iterator[dict[str, Any]]:
    """Objects of classes that can be imported only inside the block."""
    module = types.ModuleType("foreign_library")

    class Mode(enum.Enum):
        TRAIN = 1

    class Config:
        def __init__(self) -> None:
            self.lr, self.mode, self.path = 0.1, Mode.TRAIN, pathlib.PurePosixPath("/data")

    class EasyDict(dict):
        pass

    for kind in (Mode, Config, EasyDict):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    sys.modules[module.__name__] = module
    try:
        yield {
            "args": argparse.Namespace(lr=0.1, model="resnet20", mode=Mode.TRAIN),
            "config": Config(),
            "hyper_parameters": EasyDict(batch=3, layers=[1, 2], nested=EasyDict(a=None)),
            "history": {(1, 2): 3, None: {1.5}, b"x": frozenset({1})},
            "where": pathlib.PurePosixPath("/data"),
        }
    finally:
        del sys.modules[module.__name__]


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def write_tar(path: Path, state: Mapping[str, Tensor]) -> Path:
    """The format of torch before 0.1.10, after torch's own reader of it."""
    storages, tensors, numbers = io.BytesIO(), io.BytesIO(), {}
    pickle.dump(len(state), storages, 2)
    pickle.dump(len(state), tensors, 2)
    kept = {key: value.contiguous() for key, value in state.items()}
    for number, value in enumerate(kept.values()):
        kind = "LongStorage" if value.dtype == torch.int64 else "FloatStorage"
        numbers[id(value)] = 1000 + number
        pickle.dump((number, "cpu", getattr(torch, kind)), storages, 2)
        storages.write(struct.pack("<q", value.numel()) + value.numpy().tobytes())
        pickle.dump((1000 + number, number, torch.FloatTensor), tensors, 2)
        sizes = (*value.shape, *value.stride(), 0)
        tensors.write(struct.pack(f"<i4x{len(sizes)}q", value.dim(), *sizes))
    pickle.dump([], storages, 2)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> str | None:
            return str(numbers[id(value)]) if isinstance(value, Tensor) else None

    body = io.BytesIO()
    Pickler(body, 2).dump(collections.OrderedDict(kept))
    parts = {"sys_info": pickle.dumps({"little_endian": True}, 2), "pickle": body.getvalue()}
    parts |= {"tensors": tensors.getvalue(), "storages": storages.getvalue()}
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name, content in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path
