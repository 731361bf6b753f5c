"""Do exported files run in the onnxruntime of this interpreter? Needs onnxruntime and numpy alone.

    python benchmarks/onnx_export.py --store FOLDER      # where strzoo is installed
    OTHER/python benchmarks/onnx_runtime.py FOLDER

FOLDER holds pairs NAME.onnx and NAME.npz (`images`, and `expected`: torch's fp32 output). Measures
the relative difference and the top-1 agreement of each, and ends with 1 if a file fails.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from harness.record import Record, make_parser
from harness.results import Column

ABOUT = (
    "Files that `benchmarks/onnx_export.py` has stored, against torch's fp32 outputs beside them."
)
ALLOWED = {"fp32": 1e-5, "fp16": 5e-2, "int8": 0.5}


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    record = Record(
        parser, options, "onnx_runtime", "Exported files in an onnxruntime of their own", ABOUT,
        packages=["onnxruntime", "numpy"], free=["folder"],
    )  # fmt: skip
    table = record.table([
        Column("file"), Column("relative difference", "", ".1e"), Column("bar", "", "g"),
        Column("top-1 agreement", "%", ".1f"),
    ])  # fmt: skip
    files = sorted(options.folder.glob("*.onnx"))
    for file in files:
        stored = np.load(file.with_suffix(".npz"))
        allowed = ALLOWED[file.stem.rpartition("_")[2]]
        try:
            session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            feed = {session.get_inputs()[0].name: stored["images"]}
            found = session.run(None, feed)[0]
        except Exception as error:
            record.miss(f"{file.name} fails: {error}")
            continue
        expected = stored["expected"]
        relative = float(np.abs(found - expected).max() / np.abs(expected).max())
        same = 100 * float(np.mean(found.argmax(1) == expected.argmax(1)))
        table.add(file.name, relative, allowed, same)
        if not relative <= allowed:
            record.miss(f"{file.name} differs by {relative:.3g}, more than {allowed:g}")
    if not files:
        record.miss(f"there is no ONNX file in {options.folder}")
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
