"""`strzoo compile`: a model as a plan of the sparse engine, and what its zeros should gain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from strzoo.cli.completion import complete_model
from strzoo.cli.options import force_option, json_option, settings_options, verbosity_options
from strzoo.cli.output import print_json, print_table, say, simple_table
from strzoo.cli.report import parse_size
from strzoo.cli.steps import show_steps
from strzoo.engine.hardware import LEVELS
from strzoo.errors import UsageError
from strzoo.settings import Settings

if TYPE_CHECKING:
    from strzoo.engine.results import CompileReport

HEADER = ("layer", "kind", "runs as", "weights", "density %", "expected gain")


@click.command("compile")
@click.argument("model", shell_complete=complete_model)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="A .strz file to write."
)
@click.option("--threads", type=click.IntRange(min=1), help="[default: the cores there are]")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="The batch to plan for.",
)
@click.option(
    "--lanes",
    type=click.IntRange(min=1),
    help="Images side by side in a vector, a power of two  [default: 1]",
)
@click.option(
    "--input-size",
    help="SIZE, HxW or CxHxW  [default: the ONNX file's; 32 for CIFAR networks, else 224]",
)
@click.option(
    "--tune",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Measure how each layer runs best, for that long  [default: fixed rules]",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int16", "int8"]),
    default="fp32",
    show_default=True,
    help="int16: fixed point of 16 bits; int8: for weights that are zero in blocks of four input "
    "channels. Both are calibrated on images.",
)
@click.option(
    "--calibration",
    metavar="FOLDER",
    help="Images to calibrate with, or 'photographs', 'digits'  [default: the bundled ones]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    help="The relative error that a layer may add, else it stays in fp32  [default: 0.01; in int8 "
    "0.05]",
)
@click.option(
    "--cpu",
    type=click.Choice([*LEVELS, "level"]),
    help="Compile for all processors of a level; 'level' is this one's  [default: this processor]",
)
@click.option(
    "--native",
    is_flag=True,
    help="Also put machine code into the file, which runs without llvmlite where it is trusted.",
)
@click.option(
    "--islands",
    type=click.Choice(["auto", "missing", "none"]),
    default="auto",
    show_default=True,
    help="What onnxruntime may run: what is faster there, what the engine lacks, or nothing.",
)
@click.option("--no-cache", is_flag=True, help="Neither read nor write the cache folder.")
@force_option
@json_option
@settings_options
@verbosity_options
def compile_command(
    model: str,
    output: Path | None,
    threads: int | None,
    batch: int,
    lanes: int | None,
    input_size: str | None,
    tune: float,
    precision: str,
    calibration: str | None,
    tolerance: float | None,
    cpu: str | None,
    native: bool,
    islands: str,
    no_cache: bool,
    force: bool,
    as_json: bool,
    settings: Settings,
    quiet: bool,
) -> None:
    """Compile MODEL (an id, a checkpoint or an ONNX file) for this processor.

    Shows how each layer runs and what its zeros are expected to gain over the engine's dense form.
    The result is kept in the cache folder; with -o it is also written to a file, from which
    `strzoo predict`, `evaluate`, strzoo.compile and the distribution strzoo-runtime start without
    the model. Needs strzoo[engine].
    """
    from strzoo.engine.compile import compile as run
    from strzoo.engine.requirement import require_llvmlite
    from strzoo.files import check_destination

    require_llvmlite()
    if native and output is None:
        raise UsageError("--native puts machine code into a file; name the file with -o")
    if output is not None:
        if output.suffix != ".strz":
            raise UsageError(f"{output} must end in .strz")
        check_destination(output, force=force)
    with show_steps(quiet=quiet) as on_step:
        made = run(
            model,
            threads,
            batch,
            size=None if input_size is None else parse_size(input_size),
            lanes=lanes,
            tune=tune,
            precision=precision,
            calibration=calibration,
            tolerance=tolerance,
            islands=islands,
            cache=not no_cache,
            cpu=cpu,
            settings=settings,
            on_step=on_step,
        )
        if output is not None:
            on_step(f"writing {output}")
            made.save(output, force=force, native=native)
    if as_json:
        print_json({**made.report.to_dict(), "file": None if output is None else str(output)})
    else:
        _print(made.report)
        if output is not None:
            say(f"file: {output}, {output.stat().st_size / 1e6:.1f} MB")
    if not quiet:
        source = "found in the cache" if made.report.cached else "compiled"
        say(f"{source} in {made.report.seconds:.1f} s", err=True)


def _print(report: CompileReport) -> None:
    rows = [
        (
            layer.name,
            layer.kind,
            layer.form,
            f"{layer.weights:,}",
            f"{layer.density:.2f}",
            f"{layer.gain:.2f}",
        )
        for layer in report.layers
    ]
    optional = ("kind", "weights", "runs as")
    print_table(simple_table(HEADER, rows, left=3, optional=optional))
    say("\n".join(report.summary()))
