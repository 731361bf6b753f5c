"""The header, compiled by this machine's C compiler and run, against torch."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strzoo.errors import UsageError
from strzoo.rnn import FastGRNN, SequenceClassifier, export_c, quantise

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine")
SOURCE = """
#include "net.h"
int classify(const net_real *x, int steps, net_real *y) { return net_classify(x, steps, y); }
"""
DOUBLE = ["-DNET_REAL=double", "-DNET_EXP=exp", "-DNET_TANH=tanh"]


def _run(folder: Path, x: np.ndarray, classes: int) -> tuple[list[int], np.ndarray]:
    """Classes and logits of sequences [N, T, in], computed by the compiled header in x's type."""
    (folder / "net.c").write_text(SOURCE)
    flags = DOUBLE if x.dtype == np.float64 else []
    library = folder / f"net_{x.dtype.name}.so"
    subprocess.run(
        [str(COMPILER), "-std=c99", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC",
         *flags, "net.c", "-o", str(library), "-lm"],
        cwd=folder, check=True,
    )  # fmt: skip
    classify = ctypes.CDLL(str(library)).classify
    logits = np.zeros((len(x), classes), x.dtype)
    found = [
        classify(one.ctypes.data_as(ctypes.c_void_p), len(one),
                 row.ctypes.data_as(ctypes.c_void_p))
        for one, row in zip(x, logits, strict=True)
    ]  # fmt: skip
    return found, logits


CASES: list[dict[str, Any]] = [
    {"rank_w": "learned", "rank_u": 2, "s_init": -0.2},
    {"num_layers": 2, "gate": "quantSigm4", "update": "quantTanh"},
    {"gate": "quantSigm", "update": "relu"},
]


@needs_compiler
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("options", CASES, ids=str)
def test_the_compiled_header_computes_what_torch_computes(
    tmp_path: Path, options: dict[str, Any], precision: str
) -> None:
    torch.manual_seed(0)
    statistics = {"mean": torch.randn(6, 3), "std": torch.rand(6, 3) + 1}
    model = SequenceClassifier(FastGRNN(3, 4, **options), 5, **statistics).eval()
    export_c(model, tmp_path / "net.h", precision=precision, name="net")
    network = (quantise(model).network if precision == "int8" else model.fold()).double()
    x = torch.randn(8, 6, 3, dtype=torch.double)
    expected = network(x).detach()
    found, logits = _run(tmp_path, x.numpy(), 5)
    assert found == expected.argmax(1).tolist()
    # int8 scales are rounded to nine digits in the text, as all float32 constants: exactly.
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-6 if precision == "int8" else 1e-7)
    found, logits = _run(tmp_path, x.float().numpy(), 5)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    assert found == expected.argmax(1).tolist()


def test_what_makes_no_header_is_refused(tmp_path: Path) -> None:
    model = SequenceClassifier(FastGRNN(3, 4, bidirectional=True), 2)
    with pytest.raises(UsageError, match="bidirectional network needs the whole sequence"):
        export_c(model, tmp_path / "net.h")
    for name in ("My-Net", "float", "1st"):
        with pytest.raises(UsageError, match="no lower-case C identifier"):
            export_c(model, tmp_path / "net.h", name=name)
