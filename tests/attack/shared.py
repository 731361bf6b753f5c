"""Sound files that hostile ones are used with, in a process of their own: what makes them starts
threads, and the process that forks must have none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAMES = {"@cifar": "cifar.pth", "@imagenet": "imagenet.pth", "@image": "image.png",
         "@onnx": "sound.onnx", "@sequences": "sequences.pth", "@images": "images"}  # fmt: skip


def write_shared(folder: Path) -> dict[str, str]:
    """Write them into `folder`; their paths by the words that stand for them in commands."""
    (made := folder / "shared").mkdir()
    subprocess.run([sys.executable, "-m", "tests.attack.shared", str(made)], check=True)
    return {word: str(made / name) for word, name in NAMES.items()}


def _write(folder: Path) -> None:
    from PIL import Image

    import strzoo
    from strzoo import rnn
    from tests.attack.graphs import convolution_graph, save
    from tests.helpers.published import dense_state

    for name, classes in (("cifar", 10), ("imagenet", 1000)):
        state = dense_state("resnet20", num_classes=classes)
        strzoo.save_checkpoint(strzoo.build_checkpoint(state), folder / f"{name}.pth")
    Image.new("RGB", (40, 30), (200, 30, 90)).save(folder / "image.png")
    (folder / "images").mkdir()
    Image.new("RGB", (40, 30), (200, 30, 90)).save(folder / "images/image.png")
    save(folder / "sound.onnx", convolution_graph())
    network = rnn.SequenceClassifier(rnn.FastGRNN(4, 8), 3)
    rnn.save_rnn(network, folder / "sequences.pth")


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
