"""`strzoo export`: a model as one ONNX file, checked against torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from strzoo.cli.completion import complete_model
from strzoo.cli.options import force_option, json_option, settings_options, verbosity_options
from strzoo.cli.output import print_json, print_table, say, simple_table
from strzoo.cli.progress import spell_bytes
from strzoo.cli.report import parse_size
from strzoo.settings import Settings

if TYPE_CHECKING:
    from strzoo.onnx.results import OnnxExport

HEADER = ("checked on", "batch", "images", "largest difference", "relative", "top-1 agreement %")


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The file to write, ending in .onnx; the report goes beside it, .onnx.json.",
)
@click.option("--input-size", help="SIZE, HxW or CxHxW  [default: what the model was made for]")
@click.option("--batch", type=click.IntRange(min=1), help="Fix the batch size [default: dynamic].")
@click.option("--opset", type=int, help="ONNX operator set [default: 21].")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="int8 is static QDQ, calibrated on --images.",
)
@click.option(
    "--reduce-range",
    is_flag=True,
    help="int8 weights of 7 bits, which no x86 processor without VNNI saturates.",
)
@click.option("--softmax", is_flag=True, help="End in probabilities instead of logits.")
@click.option(
    "--preprocessing",
    is_flag=True,
    help="Take uint8 images [N, H, W, 3] and normalise inside the graph.",
)
@click.option(
    "--class-names",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A text file with one name per line, or a JSON list.",
)
@click.option(
    "--images",
    help="Folder of images to check on and calibrate with; or the bundled 'photographs', 'digits'.",
)
@click.option("--tolerance", type=float, help="Largest relative difference that passes.")
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 100),
    default=0.0,
    help="Least top-1 agreement with fp32 on the images, percent.",
)
@force_option
@json_option
@settings_options
@verbosity_options
def export(
    model: str,
    output: Path,
    input_size: str | None,
    batch: int | None,
    opset: int | None,
    precision: str,
    reduce_range: bool,
    softmax: bool,
    preprocessing: bool,
    class_names: Path | None,
    images: str | None,
    tolerance: float | None,
    min_agreement: float,
    force: bool,
    as_json: bool,
    settings: Settings,
    quiet: bool,
) -> None:
    """Write MODEL (an id or a checkpoint file) as one self-contained ONNX file.

    The input is `images`, the output `logits`, the batch axis `batch`. Before the file appears
    onnxruntime runs it against torch at batch 1 and 3, on real and on random images; if a check
    fails, nothing is written and the exit code is 6. Of a FastGRNN file the input is `sequences`.
    """
    from strzoo.cli.steps import show_steps
    from strzoo.data.labels import read_class_names
    from strzoo.export.export_onnx import export_onnx
    from strzoo.onnx.graphs import DEFAULT_OPSET

    with show_steps(quiet=quiet) as show:
        made = export_onnx(
            model,
            output,
            input_size=None if input_size is None else parse_size(input_size),
            batch=batch,
            opset=DEFAULT_OPSET if opset is None else opset,
            precision=precision,
            reduce_range=reduce_range,
            softmax=softmax,
            preprocessing=preprocessing,
            class_names=None if class_names is None else read_class_names(class_names),
            images=images,
            tolerance=tolerance,
            min_agreement=min_agreement,
            force=force,
            settings=settings,
            on_step=show,
        )
    if as_json:
        print_json(made.to_dict())
        return
    _print(made)


def _print(made: OnnxExport) -> None:
    rows = [
        (
            check.data,
            str(check.batch),
            str(check.images),
            f"{check.largest_difference:.3g}",
            f"{check.relative_difference:.3g}",
            f"{check.top1_agreement:.2f}",
        )
        for check in made.checks
    ]
    print_table(simple_table(HEADER, rows, title="onnxruntime against torch (fp32)"))
    shapes = [
        f"{name} {kind} [{', '.join(map(str, shape))}]"
        for name, kind, shape in (
            (made.input_name, made.input_type, made.input_shape),
            (made.output_name, "float32", made.output_shape),
        )
    ]
    say(
        f"{made.path}: {made.model}, {made.precision}, opset {made.opset}, "
        f"{spell_bytes(made.bytes)}, sparsity {made.sparsity:.2f} % "
        f"(torch {made.source_sparsity:.2f} %)"
    )
    say(f"input {shapes[0]}, output {shapes[1]}")
    say(
        f"top-1 agreement with fp32 {made.top1_agreement:.2f} %, relative difference "
        f"{made.relative_difference:.3g} (allowed {made.tolerance:.3g}); report in "
        f"{made.report_path}"
    )
