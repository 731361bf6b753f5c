"""Rows of results files are added whole or not at all."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import strzoo
from strzoo.errors import StrzooError
from strzoo.evaluation import tables


class _Full(io.FileIO):
    """A file on a disk that has room for five more bytes."""

    room = 5

    def write(self, data: Any) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        part, self.room = data[: self.room], 0
        return super().write(part)


def test_a_full_disk_leaves_no_part_of_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    result = strzoo.evaluate(network, [(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))])
    old, new, empty = (tmp_path / name for name in ("old.csv", "new.csv", "empty.csv"))
    tables.append_row(result, old)
    before = old.read_bytes()
    assert len(before.splitlines()) == 2
    with monkeypatch.context() as patched:
        patched.setattr(tables, "open", lambda p, m, **_: _Full(p, m[0]), raising=False)
        patched.setattr(tables, "check_results_file", lambda _: None)
        for path in (old, new):
            with pytest.raises(StrzooError, match="no space left on the disk"):
                tables.append_row(result, path)
        empty.touch()  # not made by this run
        with pytest.raises(StrzooError, match="no space left on the disk"):
            tables.append_row(result, empty)
    assert old.read_bytes() == before
    assert not new.exists()
    assert empty.read_bytes() == b""
