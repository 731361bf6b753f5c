"""`strzoo benchmark`: how fast models run, on which engine, and what their zeros buy there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from strzoo.cli.completion import complete_model
from strzoo.cli.options import (
    force_option,
    json_option,
    plot_option,
    settings_options,
    split_list,
    verbosity_options,
)
from strzoo.cli.output import print_json, print_table, say, simple_table
from strzoo.cli.report import parse_size
from strzoo.cli.steps import show_count
from strzoo.errors import UsageError
from strzoo.settings import Settings

if TYPE_CHECKING:
    from strzoo.benchmarking.results import BenchmarkResult

HEADER = (
    "model",
    "engine",
    "batch",
    "zeros %",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "fastest ms",
    "images/s",
    "dense ms",
    "ratio",
    "gain",
    "peak MB",
    "file MB",
)

# What a narrow terminal may lack, the first first.
_OPTIONAL = (
    "file MB", "peak MB", "fastest ms", "p99 ms", "zeros %", "p90 ms", "images/s", "dense ms",
    "gain",
)  # fmt: skip


@click.command()
@click.argument("models", nargs=-1, required=True, shell_complete=complete_model)
@click.option(
    "--engines",
    help="Of torch, torch-compile, onnxruntime, onnxruntime-int8, openvino, openvino-bf16, "
    "openvino-int8, sparse, sparse-int16, sparse-int8  [default: torch,onnxruntime and sparse if "
    "strzoo[engine] is installed]",
)
@click.option("--batch", "batches", default="1", show_default=True, help="Sizes, as in 1,16.")
@click.option("--threads", type=click.IntRange(min=1), help="[default: as torch chooses]")
@click.option(
    "--runs", type=click.IntRange(min=1), default=30, show_default=True, help="Timed calls of each."
)
@click.option("--input-size", help="SIZE, HxW or CxHxW  [default: what each model was made for]")
@click.option("--no-memory", is_flag=True, help="Do not measure peak memory.")
@plot_option
@force_option
@json_option
@settings_options
@verbosity_options
def benchmark(
    models: tuple[str, ...],
    engines: str | None,
    batches: str,
    threads: int | None,
    runs: int,
    input_size: str | None,
    no_memory: bool,
    plot: Path | None,
    force: bool,
    as_json: bool,
    settings: Settings,
    quiet: bool,
) -> None:
    """Time MODELS (ids, checkpoint, ONNX or .strz files) on several engines, in turn.

    Ratio is against onnxruntime on the dense twin (the same network with its zeros filled), gain
    against the same engine on the dense twin; above 1 is faster. Random input, medians.
    """
    from strzoo.benchmarking.benchmark import benchmark as measure
    from strzoo.benchmarking.plot import plot_benchmark
    from strzoo.pictures import check_plot

    if plot is not None:
        check_plot(plot, force=force)
    with show_count("runs", quiet=quiet) as progress:
        made = measure(
            models,
            engines=split_list(engines) if engines is not None else None,
            batches=_numbers(batches),
            threads=threads,
            runs=runs,
            input_size=None if input_size is None else parse_size(input_size),
            memory=not no_memory,
            settings=settings,
            progress=progress,
        )
    if plot is not None:
        plot_benchmark(made, plot, force=force)
    if as_json:
        print_json(made.to_dict())
        return
    _print(made)
    if plot is not None:
        say(f"plot: {plot}")


def _numbers(text: str) -> list[int]:
    parts = split_list(text)
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--batch {text!r} is not a list of positive numbers such as 1,16")
    return [int(part) for part in parts]


def _print(made: BenchmarkResult) -> None:
    rows = [
        (
            row.model,
            row.engine,
            str(row.batch),
            f"{row.sparsity:.2f}",
            f"{row.p50:.2f}",
            f"{row.p90:.2f}",
            f"{row.p99:.2f}",
            f"{row.fastest:.2f}",
            f"{row.images_per_second:.1f}",
            "-" if row.dense_onnxruntime is None else f"{row.dense_onnxruntime:.2f}",
            "-" if row.ratio is None else f"{row.ratio:.2f}",
            "-" if row.gain is None else f"{row.gain:.2f}",
            "-" if row.peak_memory is None else f"{row.peak_memory / 1e6:.0f}",
            "-" if row.file_bytes is None else f"{row.file_bytes / 1e6:.1f}",
        )
        for row in made.timings
    ]
    print_table(
        simple_table(HEADER, rows, left=2, optional=_OPTIONAL),
        more="the latency of each run",
    )
    say("\n".join(made.verdicts))
    say(
        "dense ms: onnxruntime on the dense twin; ratio: that / p50; gain: this engine on the "
        "dense twin / p50; above 1 is faster"
    )
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    runs = made.timings[0].runs if made.timings else 0
    say(f"{made.machine}; {made.threads} threads; {versions}; medians of {runs} runs")
