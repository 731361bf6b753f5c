"""A report as rows of text, CSV or Markdown. The numbers are the same in each."""

from __future__ import annotations

import csv
import io

from strzoo.analysis.results import CONVENTION, LayerReport, Report

HEADER = (
    "layer",
    "type",
    "shape",
    "params",
    "nonzeros",
    "sparsity",
    "threshold",
    "dense MACs",
    "sparse MACs",
)
TEXT_COLUMNS = 3  # the others are numbers


def rows(report: Report) -> list[tuple[str, ...]]:
    """One row per layer, one per counted operator that is no layer, and the total."""
    result = [_layer_row(layer) for layer in report.layers]
    for operator, macs in report.other_macs.items():
        result.append((operator, "operator", "", "", "", "", "", f"{macs:,}", f"{macs:,}"))
    result.append(
        (
            "total",
            "",
            "",
            _total(report, report.weights),
            _count(report.nonzeros),
            _percent(report.sparsity),
            "",
            _count(report.dense_macs),
            _count(report.sparse_macs),
        )
    )
    return result


def summary(report: Report) -> list[str]:
    """The lines below the table: totals in words, conventions, notes."""
    size = "x".join(map(str, report.input_size))
    blocks = report.block_sparsity
    lines = [
        f"params {_total(report, report.params)} (with normalisation and biases); weights "
        f"{_total(report, report.weights)}, "
        f"nonzero {_count(report.nonzeros)}, sparsity {_percent(report.sparsity)}",
        f"MACs dense {_count(report.dense_macs)}, sparse {_count(report.sparse_macs)}; "
        f"FLOPs dense {_flops(report.dense_macs)}, sparse {_flops(report.sparse_macs)}",
        f"input {size}; {CONVENTION}",
        f"sparsity from: {report.source}",
    ]
    if blocks:
        lines.append(
            f"blocks of four input channels: {_percent(blocks)} all zero (what int8 can skip)"
        )
    if report.uncounted:
        uncounted = ", ".join(
            f"{op.removeprefix('aten::')} x{n}" for op, n in report.uncounted.items()
        )
        lines.append(f"not counted: normalisation, activations, {uncounted}")
    return [*lines, *(f"note: {note}" for note in report.notes)]


def to_csv(report: Report) -> str:
    """Comma-separated values with plain numbers; the shape as `64x3x7x7`."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(name.replace(" ", "_").lower() for name in HEADER)
    for row in rows(report):
        numbers = (cell.replace(",", "").removesuffix(" %") for cell in row[TEXT_COLUMNS:])
        writer.writerow([*row[:TEXT_COLUMNS], *numbers])
    return stream.getvalue()


def to_markdown(report: Report) -> str:
    """A Markdown table and the summary."""
    aligned = ["---"] * TEXT_COLUMNS + ["---:"] * (len(HEADER) - TEXT_COLUMNS)
    lines = [" | ".join(HEADER), " | ".join(aligned), *(" | ".join(row) for row in rows(report))]
    table = "\n".join(f"| {line} |" for line in lines)
    notes = "\n".join(f"- {line}" for line in summary(report))
    return f"# {report.model}\n\n{table}\n\n{notes}\n"


def _layer_row(layer: LayerReport) -> tuple[str, ...]:
    return (
        layer.name,
        layer.type,
        "x".join(map(str, layer.shape)),
        f"{layer.params:,}",
        _count(layer.nonzeros),
        _percent(layer.sparsity),
        "" if layer.threshold is None else f"{layer.threshold:.6f}",
        f"{layer.dense_macs:,}",
        _count(layer.sparse_macs),
    )


def _total(report: Report, value: int) -> str:
    """A sum over the layers, where they are all known."""
    return _count(None if report.incomplete else value)


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _flops(macs: int | None) -> str:
    return _count(None if macs is None else 2 * macs)


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f} %"
