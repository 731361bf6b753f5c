"""Computed figures against the published ones, as printed: same unit, same number of digits."""

from __future__ import annotations

import re
from dataclasses import dataclass

from strzoo.analysis.results import Report
from strzoo.errors import StrzooError
from strzoo.zoo.registry import SPARSITY_TOLERANCE, ModelCard

MATCH, MISPRINT, MISMATCH, UNKNOWN = "match", "known misprint", "mismatch", "unknown"
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Comparison:
    """One published figure. `difference` is computed minus published, in percent of the
    published value (for sparsity: in percentage points); None where nothing was computed."""

    quantity: str
    published: str
    computed: str | None
    difference: float | None
    verdict: str
    note: str = ""


def parse_figure(text: str) -> tuple[float, int, str]:
    """Value, decimals and unit of a printed figure: "2.49M" gives (2490000.0, 2, "M").

    Raises:
        StrzooError: it is not a number with an optional K, M or G.
    """
    match = re.fullmatch(r"(\d+(?:\.(\d+))?)([KMG]?)", text)
    if match is None:
        raise StrzooError(f"{text!r} is not a figure such as 2.49M or 343M")
    return float(match[1]) * _UNITS[match[3]], len(match[2] or ""), match[3]


def print_like(value: float, text: str) -> str:
    """`value` with the unit and the decimals of the printed figure `text`."""
    _, decimals, unit = parse_figure(text)
    return f"{value / _UNITS[unit]:.{decimals}f}{unit}"


def compare_published(card: ModelCard, report: Report) -> tuple[Comparison, ...]:
    """Params, sparsity and FLOPs of `report` against the figures on `card`."""
    params = _compare_params(card, report)
    flops = _compare_printed(card, "flops", card.published.flops, report.sparse_macs)
    return params, _compare_sparsity(card, report), flops


def _compare_params(card: ModelCard, report: Report) -> Comparison:
    printed = card.published.params
    line = _compare_printed(card, "params", printed, report.nonzeros)
    if line.verdict == MISMATCH and report.nonzeros == report.weights:
        # The table's dense ResNet50 counts BatchNorm too, its dense MobileNetV1 does not.
        whole = _compare_printed(card, "params", printed, report.params, "with BatchNorm")
        return whole if whole.verdict == MATCH else line
    return line


def _compare_printed(
    card: ModelCard, quantity: str, printed: str, value: int | None, note: str = ""
) -> Comparison:
    if value is None:
        return Comparison(quantity, printed, None, None, UNKNOWN, "needs the weights")
    published, *_ = parse_figure(printed)
    computed = print_like(value, printed)
    difference = 100.0 * (value - published) / published
    if computed == printed:
        return Comparison(quantity, printed, computed, difference, MATCH, note)
    erratum = card.errata.get(quantity)
    if erratum is not None and computed == erratum.expected:
        return Comparison(quantity, printed, computed, difference, MISPRINT, erratum.reason)
    return Comparison(quantity, printed, computed, difference, MISMATCH, note)


def _compare_sparsity(card: ModelCard, report: Report) -> Comparison:
    published = card.published.sparsity
    printed = f"{published:.2f}"
    if report.sparsity is None:
        return Comparison("sparsity", printed, None, None, UNKNOWN, "needs the weights")
    difference = report.sparsity - published
    verdict = MATCH if abs(difference) <= SPARSITY_TOLERANCE else MISMATCH
    return Comparison("sparsity", printed, f"{report.sparsity:.2f}", difference, verdict)
