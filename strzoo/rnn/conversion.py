"""convert_rnn: a FastGRNN classifier in another form of file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from strzoo.errors import UsageError
from strzoo.files import atomic_path
from strzoo.rnn.classifier import SequenceClassifier
from strzoo.rnn.edgeml import to_edgeml, write_folder
from strzoo.rnn.export_onnx import measure_weights
from strzoo.rnn.files import save_rnn
from strzoo.rnn.quantisation import Int8Classifier, quantise

FORMS = ("strzoo", "int8", "edgeml")


def convert_rnn(
    model: SequenceClassifier,
    destination: str | os.PathLike[str],
    *,
    form: str = "strzoo",
    force: bool = False,
    check: Callable[[Path], object] | None = None,
) -> float:
    """Write `model`, folded, to `destination`.

    Args:
        form: "strzoo" (`save_rnn`), "int8" (the same in int8), or "edgeml": a state dict with
            `rnn_list.*` and `hidden2keyword.*` for a name in .pth or .pt, a folder of `.npy` files
            for a name without suffix. State dicts have no place for mean and deviation.
        check: called with the file of form "strzoo" or "int8" before it gets its name.

    Returns:
        Kilobytes (1,024 bytes) of the weights as written.

    Raises:
        UsageError: an unknown form, or one that cannot hold this network.
        StrzooError: the destination is refused.
    """
    path = Path(destination)
    if form not in FORMS:
        raise UsageError(f"form {form!r} is not one of {', '.join(FORMS)}")
    folded = model.fold()
    chosen: SequenceClassifier | Int8Classifier = quantise(folded) if form == "int8" else folded
    if form != "edgeml":
        save_rnn(chosen, path, force=force, check=check)
    elif path.suffix == "":
        write_folder(folded, path)
    elif path.suffix not in (".pth", ".pt"):
        raise UsageError(f"{path} ends in neither .pth nor .pt, and is no name of a folder")
    elif (folded.mean != 0).any() or (folded.std != 1).any():
        raise UsageError(
            "EdgeML's state dicts have no place for the mean and deviation of the input; give a "
            "name without suffix, which writes a folder that has"
        )
    else:
        state = to_edgeml(folded, "rnn_list")
        with atomic_path(path, force=force) as temporary:
            torch.save(state, temporary)
    return measure_weights(chosen)
