"""`strzoo rnn`: FastGRNN with learned rank: train, evaluate, report, export, convert."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from strzoo.cli.options import force_option, json_option, verbosity_options
from strzoo.cli.output import print_json, say
from strzoo.cli.rnn_training import print_rnn_report, train
from strzoo.errors import UsageError

if TYPE_CHECKING:
    from strzoo.rnn.classifier import SequenceClassifier

Command = TypeVar("Command", bound=Callable[..., Any])
# As in strzoo.rnn.gates, strzoo.rnn.edgeml and strzoo.rnn.config, which --help must not import.
_GATES = click.Choice(["sigmoid", "tanh", "relu", "quantTanh", "quantSigm", "quantSigm4"])
_ORIENTATIONS = click.Choice(["in_first", "hidden_first"])


def _reading_options(command: Command) -> Command:
    """What EdgeML's files do not say."""
    for option in (
        click.option("--orientation", type=_ORIENTATIONS, help="Of EdgeML's square matrices."),
        click.option("--update", type=_GATES, help="Of EdgeML's files [default: tanh]."),
        click.option("--gate", type=_GATES, help="Of EdgeML's files [default: sigmoid]."),
    ):
        command = option(command)
    return command


@click.group("rnn")
def rnn() -> None:
    """FastGRNN networks for sequences, with ranks learned by STR.

    MODEL is a .pth file of `strzoo rnn train`, an EdgeML state dict, or an EdgeML folder of .npy
    files. See docs/fastgrnn.md.
    """


rnn.add_command(train)


@rnn.command()
@click.argument("model")
@click.option("--dataset", default="digits", show_default=True, help="A dataset of train --keys.")
@click.option("--data", help="Folder of the data set; digits needs none.")
@click.option(
    "--split",
    type=click.Choice(["train", "test"]),
    default="test",
    show_default=True,
    help="Sequences to evaluate on.",
)
@click.option("--int8", is_flag=True, help="Evaluate with int8 weights.")
@_reading_options
@json_option
@verbosity_options
def evaluate(
    model: str,
    dataset: str,
    data: str | None,
    split: str,
    int8: bool,
    gate: str | None,
    update: str | None,
    orientation: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure the top-1 accuracy of MODEL."""
    from strzoo.rnn.config import RNNConfig
    from strzoo.rnn.datasets.load import load_sequences
    from strzoo.rnn.export_onnx import measure_weights
    from strzoo.rnn.quantisation import quantise
    from strzoo.rnn.training import evaluate_rnn

    if dataset == "digits" and data is not None:
        raise UsageError(
            "--data is for the other datasets; digits come with strzoo: give --dataset"
        )
    network = _load(model, gate, update, orientation)
    features = network.rnn.input_size if dataset == "edgeml" else None
    config = RNNConfig(dataset=dataset, data=data, features=features)
    sequences = load_sequences(config, split)
    chosen = quantise(network) if int8 else None
    top1 = evaluate_rnn(network if chosen is None else chosen.network, sequences)
    size = measure_weights(network.fold() if chosen is None else chosen)
    if as_json:
        print_json(
            {
                "schema": 1, "model": model, "dataset": dataset, "split": split,
                "precision": "int8" if int8 else "fp32", "sequences": len(sequences),
                "top1": top1, "kilobytes": size,
            }
        )  # fmt: skip
        return
    say(
        f"{model}: top-1 {top1:.2f} % of {len(sequences)} sequences of {dataset} ({split}), "
        f"{'int8' if int8 else 'fp32'}, {size:.2f} KB"
    )


@rnn.command()
@click.argument("model")
@click.option("--steps", type=int, help="Length of a sequence [default: the network's own].")
@_reading_options
@json_option
@verbosity_options
def report(
    model: str,
    steps: int | None,
    gate: str | None,
    update: str | None,
    orientation: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Ranks, parameters and MACs of MODEL, matrix by matrix."""
    from strzoo.rnn.report import report_rnn

    made = report_rnn(_load(model, gate, update, orientation), steps=steps, name=model)
    if as_json:
        print_json(made.to_dict())
        return
    print_rnn_report(made)


@rnn.command()
@click.argument("model")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8"]),
    default="fp32",
    show_default=True,
    help="Of the weights.",
)
@click.option("--name", help="Prefix of a header's names [default: fastgrnn].")
@_reading_options
@force_option
@json_option
@verbosity_options
def export(
    model: str,
    destination: Path,
    precision: str,
    name: str | None,
    gate: str | None,
    update: str | None,
    orientation: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write MODEL as DESTINATION, FILE.onnx (checked in onnxruntime) or FILE.h (C99)."""
    if destination.suffix not in (".onnx", ".h"):
        raise UsageError(f"{destination} ends in neither .onnx nor .h")
    network = _load(model, gate, update, orientation)
    if destination.suffix == ".h":
        from strzoo.rnn.c_header import export_c

        made = export_c(
            network, destination, precision=precision, name=name or "fastgrnn", force=force
        )
    else:
        from strzoo.rnn.export_onnx import export_rnn

        made = export_rnn(network, destination, precision=precision, name=name, force=force)
    if as_json:
        print_json(made.to_dict())
        return
    checked = (
        "" if made.relative_difference is None
        else f", equal to torch within {made.relative_difference:.1e} of the largest logit"
    )  # fmt: skip
    say(
        f"{made.path}: {made.precision}, weights {made.kilobytes:.2f} KB, file "
        f"{made.bytes / 1000:.1f} kB{checked}"
    )


@rnn.command()
@click.argument("model")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "form",
    type=click.Choice(["strzoo", "int8", "edgeml"]),
    default="strzoo",
    show_default=True,
    help="strzoo: a folded .pth; int8: the same in int8; edgeml: a state dict (.pth), or a folder "
    "of .npy files for a name without suffix.",
)
@_reading_options
@force_option
@json_option
@verbosity_options
def convert(
    model: str,
    destination: Path,
    form: str,
    gate: str | None,
    update: str | None,
    orientation: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write MODEL in another form to DESTINATION; learned ranks are folded."""
    from strzoo.rnn.conversion import convert_rnn

    network = _load(model, gate, update, orientation)
    kilobytes = convert_rnn(network, destination, form=form, force=force)
    if as_json:
        print_json({"schema": 1, "path": str(destination), "form": form, "kilobytes": kilobytes})
        return
    say(f"{destination}: {form}, weights {kilobytes:.2f} KB")


def _load(
    model: str, gate: str | None, update: str | None, orientation: str | None
) -> SequenceClassifier:
    from strzoo.rnn.files import load_rnn

    return load_rnn(model, gate=gate, update=update, orientation=orientation)
