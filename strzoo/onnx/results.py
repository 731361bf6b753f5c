"""The record of an ONNX export: what was written and what was measured. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONVENTION = (
    "relative difference = largest absolute difference / largest absolute reference value; "
    "top-1 agreement = percent of images with the same first class"
)


@dataclass(frozen=True)
class Agreement:
    """Outputs of the file against the torch network's (fp32) on some images.

    `relative_difference` is the largest absolute difference over the largest absolute reference
    value; `top1_agreement` in percent of the images.
    """

    data: str
    batch: int
    images: int
    largest_difference: float
    relative_difference: float
    top1_agreement: float


@dataclass(frozen=True)
class OnnxExport:
    """What `export_onnx` wrote and measured.

    `bytes` is the file's size, `sparsity` the percent of zero weights in the file,
    `source_sparsity` in the torch network. The differences are the worst of `checks` (the worst
    on real images for int8); `top1_agreement` is the percent of the real images that the file
    and torch's fp32 network put in the same class. `seconds` is the whole call's.
    """

    path: Path
    report_path: Path
    model: str
    precision: str
    opset: int
    input_name: str
    input_type: str
    input_shape: tuple[int | str, ...]
    output_name: str
    output_shape: tuple[int | str, ...]
    bytes: int
    sparsity: float
    source_sparsity: float
    largest_difference: float
    relative_difference: float
    top1_agreement: float
    tolerance: float
    checks: tuple[Agreement, ...]
    metadata: Mapping[str, str]
    versions: Mapping[str, str]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the stored report is the same document."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values |= {
            "path": str(self.path),
            "report_path": str(self.report_path),
            "checks": [dataclasses.asdict(check) for check in self.checks],
            "metadata": dict(self.metadata),
            "versions": dict(self.versions),
        }
        return {"schema": 1, "convention": CONVENTION, **values}
