"""`strzoo demo`: the whole road on real digits, in about a minute, without network."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from strzoo.cli.interrupts import remembered_interrupts
from strzoo.cli.options import json_option, verbosity_options
from strzoo.cli.output import Table, live_console, print_json, print_table, say, simple_table

if TYPE_CHECKING:
    from strzoo.demo import DemoResult
    from strzoo.training.fit import EpochResult

HEADER = ("epoch", "loss", "train top-1 %", "sparsity %")


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("strzoo-demo"),
    show_default=True,
    help="Folder for the checkpoints and the ONNX file.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Train for this many epochs.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights and order.")
@json_option
@verbosity_options
def demo(output: Path, epochs: int | None, seed: int, as_json: bool, quiet: bool) -> None:
    """Train a sparse network on real handwritten digits and take it to ONNX.

    Dense twin, STR training, checkpoint, conversion, evaluation, report, ONNX export: each step
    is one call of the public API; the source of strzoo/demo.py reads as the tutorial.
    """
    import dataclasses

    from strzoo.demo import CONFIG, run_demo

    config = CONFIG if epochs is None else dataclasses.replace(CONFIG, epochs=epochs)
    screen = live_console(quiet=quiet)
    start = time.monotonic()
    seen: dict[str, list[EpochResult]] = {}

    with contextlib.ExitStack() as stack:
        check_interrupts = stack.enter_context(remembered_interrupts())
        live = None
        if screen is not None:
            from rich.live import Live

            live = stack.enter_context(Live(console=screen, transient=True, auto_refresh=False))

        def tell(text: str) -> None:
            check_interrupts()
            if not quiet:
                say(f"[{time.monotonic() - start:5.1f} s] {text}", err=True)

        def watch(network: str, result: EpochResult) -> None:
            check_interrupts()
            seen.setdefault(network, []).append(result)
            if live is not None:
                live.update(_history(network, seen[network]), refresh=True)

        made = run_demo(output, config, seed=seed, on_step=tell, on_epoch=watch)
    if as_json:
        print_json(_document(made))
    else:
        _print(made)
    if not quiet:
        say(f"done in {time.monotonic() - start:.1f} s", err=True)


def _history(network: str, results: list[EpochResult], every: int = 1) -> Table:
    rows = [
        (str(r.epoch), f"{r.loss:.3f}", f"{r.top1:.2f}", f"{r.sparsity:.2f}")
        for r in results
        if r.epoch % every == 0 or r.epoch == 1 or r is results[-1]
    ]
    return simple_table(HEADER, rows, left=0, title=f"training: {network}")


def _print(made: DemoResult) -> None:
    from strzoo.analysis.rendering import summary
    from strzoo.cli.report import report_table

    print_table(_history("STR", list(made.history), every=5))
    print_table(report_table(made.report))
    say("\n".join(summary(made.report)))
    rows = [
        ("dense twin", "0.00", f"{made.dense_twin_top1:.2f}"),
        ("STR network", f"{made.sparsity:.2f}", f"{made.str_top1:.2f}"),
        ("converted to dense", f"{made.sparsity:.2f}", f"{made.dense_top1:.2f}"),
        ("ONNX, onnxruntime", f"{made.sparsity:.2f}", f"{made.onnx_top1:.2f}"),
    ]
    header = ("network", "sparsity %", "top-1 %")
    print_table(simple_table(header, rows, title="360 held-out digits"))
    for file in made.files:
        say(f"wrote {file} ({file.stat().st_size / 1e6:.2f} MB)")


def _document(made: DemoResult) -> dict[str, object]:
    return {
        "schema": 1,
        "sparsity": made.sparsity,
        "top1": {
            "dense_twin": made.dense_twin_top1,
            "str": made.str_top1,
            "dense": made.dense_top1,
            "onnx": made.onnx_top1,
        },
        "history": [vars(result) for result in made.history],
        "report": made.report.to_dict(),
        "files": [str(file) for file in made.files],
    }
