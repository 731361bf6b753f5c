"""`strzoo evaluate`: exact accuracy on ImageNet and other labelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from strzoo.cli.completion import complete_model
from strzoo.cli.options import (
    Command,
    force_option,
    json_option,
    settings_options,
    verbosity_options,
)
from strzoo.cli.output import live_console, print_json, print_table, say, simple_table
from strzoo.errors import UsageError
from strzoo.settings import Settings
from strzoo.spelling import spell_change

if TYPE_CHECKING:
    from strzoo.evaluation.results import EvalResult
    from strzoo.hub.source import Source
    from strzoo.zoo.registry import Preprocessing

_FILE = click.Path(dir_okay=False, path_type=Path)


engine_option = click.option(
    "--engine",
    type=click.Choice(["torch", "onnxruntime", "sparse"]),
    help="sparse needs strzoo[engine]  [default: torch; for ONNX files onnxruntime]",
)


def output_choice_options(command: Command) -> Command:
    """--output and --background."""
    for option in (
        click.option(
            "--background",
            type=click.Choice(["first", "last", "none"]),
            help="Where a class for none of them is [default: recognised in 1001 classes].",
        ),
        click.option("--output", help="The output that answers, of an ONNX file with several."),
    ):
        command = option(command)
    return command


def preprocessing_options(command: Command) -> Command:
    """--resize, --crop, --interpolation, --mean and --std."""
    triple: dict[str, Any] = {"nargs": 3, "type": float, "metavar": "R G B"}
    for option in (
        click.option("--std", **triple, help="Deviation of each channel."),
        click.option("--mean", **triple, help="Mean of each channel, of pixels from 0 to 1."),
        click.option("--interpolation", help="bilinear, bicubic, ... [default: as published]"),
        click.option("--crop", type=click.IntRange(min=1), help="Pixels of the centre crop."),
        click.option("--resize", type=click.IntRange(min=1), help="Pixels of the short side."),
    ):
        command = option(command)
    return command


def make_preprocessing(source: Source, **given: Any) -> Preprocessing | None:
    """The model's own preprocessing with what was given on the command line; None if nothing."""
    from strzoo.data.preprocessing import override_preprocessing

    changes = {name: value for name, value in given.items() if value not in (None, ())}
    return override_preprocessing(source.preprocessing, **changes) if changes else None


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="Folder, tar or parquet file."
)
@click.option("--labels", type=_FILE, help="Label file of a flat folder [default: looked for].")
@click.option("--real", type=_FILE, metavar="REAL.JSON", help="Use ReaL labels instead.")
@click.option("--split", help="Of a data set with several [default: validation, else test].")
@click.option("--batch-size", type=click.IntRange(min=1), help="[default: 64, on a GPU 256]")
@click.option("--workers", type=click.IntRange(min=0), help="Decoders [default: one per core].")
@click.option("--format", type=click.Choice(["str", "dense"]), help="Use or make this form.")
@click.option("--device", help="cpu, cuda or cuda:N [default: a GPU if there is one].")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "tf32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="auto: fp32 on the CPU, tf32 on a GPU.",
)
@click.option("--compile", is_flag=True, help="Compile the network first.")
@click.option("--channels-last/--no-channels-last", default=True, help="Memory layout.")
@click.option(
    "--decoder",
    type=click.Choice(["pil", "device"]),
    default="pil",
    show_default=True,
    help="device: decode JPEGs on the device, and state the difference.",
)
@click.option("--provider", "providers", multiple=True, help="Execution provider of an ONNX file.")
@engine_option
@output_choice_options
@preprocessing_options
@click.option("--skip-broken", is_flag=True, help="Count unreadable images as wrong, list them.")
@click.option("--resume", type=_FILE, help="Keep what is done in this file, and go on from it.")
@click.option("--csv", "results", type=_FILE, help="Append a row to this file.")
@click.option("--per-class", type=_FILE, help="Write accuracy by class to this CSV file.")
@click.option("--predictions", type=_FILE, help="Write the five best of each image (CSV).")
@force_option
@json_option
@settings_options
@verbosity_options
def evaluate(
    model: str,
    data: Path,
    resize: int | None,
    crop: int | None,
    interpolation: str | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    results: Path | None,
    per_class: Path | None,
    predictions: Path | None,
    force: bool,
    as_json: bool,
    settings: Settings,
    quiet: bool,
    **options: Any,
) -> None:
    """Top-1 and top-5 of MODEL on the labelled images in --data.

    MODEL is an id, a checkpoint (STR is used as it is; --format dense converts it first), an ONNX
    file or a .strz file. The layout of the data is recognised: ImageNet in all its forms,
    ImageNetV2, -A, -R, -Sketch, Imagenette, CIFAR, or folders of the model's own classes
    (docs/evaluation.md).
    Several processes started by torchrun share the images and give the same counts.
    """
    from strzoo.evaluation.tables import (
        append_row,
        check_results_file,
        write_per_class,
        write_predictions,
    )
    from strzoo.files import check_destination

    if results is not None:
        check_results_file(results)
    for written in (per_class, predictions):
        if written is not None:
            check_destination(written, force=force)
    if per_class is not None and per_class == predictions:
        raise UsageError("--per-class and --predictions name the same file")
    from strzoo.distributed import read_launcher
    from strzoo.evaluation.evaluate import evaluate as run
    from strzoo.hub.resolve import resolve

    speaks = read_launcher().rank == 0
    source = resolve(model, format=options["format"], settings=settings)
    preprocessing = make_preprocessing(
        source,
        resize=resize,
        crop=crop,
        interpolation=interpolation,
        mean=mean,
        std=std,
    )
    with _bar(quiet=quiet or not speaks) as draw:
        made = run(source, data, preprocessing=preprocessing, on_progress=draw, **options)
    if not speaks:
        return
    # First, as a file that cannot be written must not cost the answer.
    if as_json:
        print_json(made.to_dict())
    else:
        _print(made)
    if results is not None:
        append_row(made, results)
    if per_class is not None:
        write_per_class(made, per_class, force=force)
    if predictions is not None:
        write_predictions(made, predictions, force=force)
    if not quiet:
        say(
            f"evaluated {made.images:,} images in {made.timing.total:.1f} s "
            f"({made.images_per_second:.1f} images/s)",
            err=True,
        )


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and remaining time, where somebody looks."""
    screen = live_console(quiet=quiet)
    if screen is None:
        yield lambda done, total: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} images/s" if task.speed else "")

    columns = (
        TextColumn("evaluating"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, transient=True) as bars:
        task = bars.add_task("", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _print(made: EvalResult) -> None:
    low, high = made.interval
    counts = f"{made.correct_top1:,} of {made.images:,}"
    rows = [
        ("top-1", f"{made.top1:.2f} %", f"{counts}, 95 % interval {low:.2f} to {high:.2f} %"),
        ("top-5", f"{made.top5:.2f} %", f"{made.correct_top5:,} of {made.images:,}"),
        ("loss", f"{made.loss:.4f}", "mean cross-entropy"),
    ]
    if made.published_top1 is not None and made.difference is not None:
        note = f"difference {spell_change(made.difference)} points"
        rows.insert(1, ("published top-1", f"{made.published_top1:.2f} %", note))
    if made.subset is not None:
        note = f"answers only among the data's {len(made.subset.classes)} classes"
        for name, count in (("1", made.subset.correct_top1), ("5", made.subset.correct_top5)):
            rows.append((f"subset top-{name}", f"{100 * count / made.images:.2f} %", note))
    if check := made.decoder_check:
        rows.append(
            (
                "decoder",
                f"{spell_change(check.top1 - check.pil_top1)} points",
                f"top-1 against PIL on {check.images:,} images, "
                f"{check.different_predictions} predictions differ",
            )
        )
    print_table(
        simple_table(
            ("figure", "value", "of"),
            rows,
            title=f"{made.model} on {made.data}",
            wrap=("of",),
        )
    )
    say(f"layout: {made.layout}")
    for note in made.notes:
        say(f"note: {note}")
    say(f"precision: {made.precision}; device: {made.device}; decoder: {made.decoder}")
    timing = made.timing
    say(
        f"speed: {made.images_per_second:.1f} images/s over {timing.total:.1f} s, first batch "
        f"after {timing.first_batch:.1f} s; batch {made.batch_size}, {made.workers} workers, "
        f"{made.processes} process{'es' if made.processes > 1 else ''}"
    )
    say(
        f"time: decode {timing.decode:.1f} s (in the workers), transfer {timing.transfer:.1f} s, "
        f"forward {timing.forward:.1f} s, waiting for images {timing.waiting:.1f} s"
    )
    if made.resumed:
        say(f"resumed: {made.resumed:,} images were done by an earlier run")
    for name, reason in made.broken:
        say(f"unreadable, counted as wrong: {name}: {reason}")
    say(f"weights: sha256 {made.weights_sha256}")
    say("versions: " + ", ".join(f"{name} {v}" for name, v in made.versions.items()))
