"""`strzoo inspect`: what an ONNX file holds, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from strzoo.cli.options import force_option, verbosity_options
from strzoo.cli.output import say
from strzoo.cli.report import output_options, parse_size, show_report

if TYPE_CHECKING:
    from strzoo.analysis.inspect_onnx import OnnxInspection


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--input-size", help="SIZE, HxW or CxHxW, for a file that leaves it open.")
@output_options
@force_option
@verbosity_options
def inspect(
    file: Path,
    input_size: str | None,
    style: str,
    output: Path | None,
    force: bool,
    quiet: bool,
) -> None:
    """Params, sparsity and MACs of each layer of the ONNX FILE, ours or anyone's."""
    from strzoo.analysis.inspect_onnx import inspect_onnx
    from strzoo.files import check_destination

    if output is not None:
        check_destination(output, force=force)
    size = None if input_size is None else parse_size(input_size)
    made = inspect_onnx(file, input_size=size)
    show_report(made.report, made.to_dict(), style, output, force=force, quiet=quiet)
    if style == "table" and output is None:
        say("\n".join(_describe(made)))


def _describe(made: OnnxInspection) -> list[str]:
    """Lines about the file as a whole."""
    values = [
        f"{what} {name} {kind} [{', '.join(map(str, shape))}]"
        for what, group in (("input", made.inputs), ("output", made.outputs))
        for name, (kind, shape) in group.items()
    ]
    opsets = ", ".join(f"{domain} {version}" for domain, version in made.opsets.items())
    types = ", ".join(f"{kind} x{count}" for kind, count in made.weight_types.items())
    operators = ", ".join(f"{name} x{count}" for name, count in made.operators.items())
    lines = [
        f"file {made.bytes / 1e6:.2f} MB, opset {opsets}, IR {made.ir_version}, made by "
        f"{made.producer}; weights {types or 'none'}",
        "; ".join(values),
        f"operators: {operators}",
    ]
    for key, text in made.metadata.items():
        lines.append(f"{key}: {text if len(text) <= 100 else text[:97] + '...'}")
    return lines
