"""Workers: what a forked one must leave alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.photographs import crop_photographs, jpeg

# A session in a cycle is garbage when the workers are forked; each collects as soon as it starts.
PROGRAM = """
import gc, sys, time
import numpy as np, onnx, torch
from onnx import parser
from strzoo.data.layouts import find_samples
from strzoo.data.loading import load_batches
from strzoo.data.preprocessing import SMALL
from strzoo.onnx.sessions import open_session

class Box: pass

gc.disable()
text = '<ir_version: 8, opset_import: ["" : 18]> g (float[4, 4] x) => (float[4, 4] y) {y = Relu(x)}'
box = Box()
box.itself = box
entries = {"session.intra_op.allow_spinning": "0"}  # its thread waits at once
box.session = open_session(parser.parse_model(text).SerializeToString(), threads=2, entries=entries)
box.session.run(None, {"x": np.ones((4, 4), np.float32)})
time.sleep(0.2)
del box

def collect(image, number):
    gc.collect()
    return np.zeros((32, 32, 3), np.uint8)

samples = find_samples(sys.argv[1], 1)
batches = load_batches(
    samples, [0, 1], SMALL, batch_size=1, workers=2, device=torch.device("cpu"), transform=collect
)
print(sum(len(batch) for batch in batches))
"""


@pytest.mark.slow
def test_workers_do_not_wait_for_threads_of_a_session_that_was_garbage(tmp_path: Path) -> None:
    for number, image in enumerate(crop_photographs(2, 0)):
        path = tmp_path / "set" / "class" / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(image))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "set")],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
