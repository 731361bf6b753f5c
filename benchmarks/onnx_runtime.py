"""Do exported files run in the onnxruntime of this interpreter? Needs onnxruntime and numpy alone.

    python benchmarks/onnx_export.py --store FOLDER      # where strzoo is installed
    OTHER/python benchmarks/onnx_runtime.py FOLDER

FOLDER holds pairs NAME.onnx and NAME.npz (`images`, and `expected`: torch's fp32 output). Prints
the relative difference and the top-1 agreement of each, and ends with 1 if a file fails.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime

ALLOWED = {"fp32": 1e-5, "fp16": 5e-2, "int8": 0.5}


def main(folder: Path) -> int:
    print(f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}")
    failed = 0
    files = sorted(folder.glob("*.onnx"))
    for file in files:
        stored = np.load(file.with_suffix(".npz"))
        try:
            session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            feed = {session.get_inputs()[0].name: stored["images"]}
            found = session.run(None, feed)[0]
        except Exception as error:
            print(f"{file.name}: FAILS: {error}")
            failed += 1
            continue
        expected = stored["expected"]
        relative = np.abs(found - expected).max() / np.abs(expected).max()
        same = 100 * np.mean(found.argmax(1) == expected.argmax(1))
        allowed = ALLOWED[file.stem.rpartition("_")[2]]
        verdict = "ok" if relative <= allowed else "FAILS"
        failed += verdict != "ok"
        print(
            f"{file.name}: {verdict}, relative difference {relative:.3g}, top-1 same {same:.1f} %"
        )
    return int(failed > 0 or not files)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
