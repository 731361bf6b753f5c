"""strzoo: sparse convolutional networks learned by STR.

The public names below are imported when first used, so `import strzoo` costs nothing and the
parts that need no torch do not import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from strzoo.version import VERSION

if TYPE_CHECKING:
    from strzoo.analysis.extraction import extract_budget as extract_budget
    from strzoo.analysis.records import Report as Report
    from strzoo.analysis.reporting import report as report
    from strzoo.analysis.reporting import report_budget as report_budget
    from strzoo.analysis.verification import verify as verify
    from strzoo.budgets import Budget as Budget
    from strzoo.budgets import compare_budgets as compare_budgets
    from strzoo.budgets import list_budgets as list_budgets
    from strzoo.budgets import load_budget as load_budget
    from strzoo.budgets import write_budget as write_budget
    from strzoo.checkpoint import Checkpoint as Checkpoint
    from strzoo.checkpoint import build_checkpoint as build_checkpoint
    from strzoo.checkpoint import read_checkpoint as read_checkpoint
    from strzoo.checkpoint import save_checkpoint as save_checkpoint
    from strzoo.conversion import convert as convert
    from strzoo.conversion import to_dense as to_dense
    from strzoo.data.digits import load_digits as load_digits
    from strzoo.deployment.benchmarking import benchmark as benchmark
    from strzoo.deployment.inspection import OnnxInspection as OnnxInspection
    from strzoo.deployment.inspection import inspect_onnx as inspect_onnx
    from strzoo.deployment.matrices import MatrixExport as MatrixExport
    from strzoo.deployment.matrices import export_matrices as export_matrices
    from strzoo.deployment.onnx_export import export_onnx as export_onnx
    from strzoo.deployment.results import OnnxExport as OnnxExport
    from strzoo.deployment.timings import BenchmarkResult as BenchmarkResult
    from strzoo.downloads import download as download
    from strzoo.engine.compilation import compile as compile
    from strzoo.engine.model import SparseModel as SparseModel
    from strzoo.errors import StrzooError as StrzooError
    from strzoo.evaluation import EvalResult as EvalResult
    from strzoo.evaluation import evaluate as evaluate
    from strzoo.hub import get_transforms as get_transforms
    from strzoo.hub import load as load
    from strzoo.layers import DNWConv2d as DNWConv2d
    from strzoo.layers import DNWLinear as DNWLinear
    from strzoo.layers import GMPConv2d as GMPConv2d
    from strzoo.layers import GMPLinear as GMPLinear
    from strzoo.layers import STRConv2d as STRConv2d
    from strzoo.layers import STRLinear as STRLinear
    from strzoo.layers import soft_threshold as soft_threshold
    from strzoo.models import create_model as create_model
    from strzoo.models import list_architectures as list_architectures
    from strzoo.prediction import Prediction as Prediction
    from strzoo.prediction import predict as predict
    from strzoo.registry import ModelCard as ModelCard
    from strzoo.registry import get_card as get_card
    from strzoo.registry import list_models as list_models
    from strzoo.settings import Settings as Settings
    from strzoo.sparsification import sparsify_ as sparsify_
    from strzoo.sparsification import to_dense_ as to_dense_
    from strzoo.training.config import TrainConfig as TrainConfig
    from strzoo.training.fitting import FitConfig as FitConfig
    from strzoo.training.fitting import fit as fit
    from strzoo.training.planning import TrainPlan as TrainPlan
    from strzoo.training.planning import plan as plan
    from strzoo.training.procedure import train as train
    from strzoo.training.recipes import list_recipes as list_recipes
    from strzoo.training.recipes import load_recipe as load_recipe
    from strzoo.training.records import TrainResult as TrainResult

__version__ = VERSION

# Where each public name lives; tests compare it with the imports above.
_HOMES = {
    "strzoo.analysis.extraction": ("extract_budget",),
    "strzoo.analysis.records": ("Report",),
    "strzoo.analysis.reporting": ("report", "report_budget"),
    "strzoo.analysis.verification": ("verify",),
    "strzoo.budgets": (
        "Budget",
        "compare_budgets",
        "list_budgets",
        "load_budget",
        "write_budget",
    ),
    "strzoo.checkpoint": ("Checkpoint", "build_checkpoint", "read_checkpoint", "save_checkpoint"),
    "strzoo.conversion": ("convert", "to_dense"),
    "strzoo.data.digits": ("load_digits",),
    "strzoo.deployment.benchmarking": ("benchmark",),
    "strzoo.deployment.inspection": ("OnnxInspection", "inspect_onnx"),
    "strzoo.deployment.matrices": ("MatrixExport", "export_matrices"),
    "strzoo.deployment.onnx_export": ("export_onnx",),
    "strzoo.deployment.results": ("OnnxExport",),
    "strzoo.deployment.timings": ("BenchmarkResult",),
    "strzoo.downloads": ("download",),
    "strzoo.engine.compilation": ("compile",),
    "strzoo.engine.model": ("SparseModel",),
    "strzoo.errors": ("StrzooError",),
    "strzoo.evaluation": ("EvalResult", "evaluate"),
    "strzoo.hub": ("get_transforms", "load"),
    "strzoo.layers": (
        "DNWConv2d",
        "DNWLinear",
        "GMPConv2d",
        "GMPLinear",
        "STRConv2d",
        "STRLinear",
        "soft_threshold",
    ),
    "strzoo.models": ("create_model", "list_architectures"),
    "strzoo.prediction": ("Prediction", "predict"),
    "strzoo.registry": ("ModelCard", "get_card", "list_models"),
    "strzoo.settings": ("Settings",),
    "strzoo.sparsification": ("sparsify_", "to_dense_"),
    "strzoo.training.config": ("TrainConfig",),
    "strzoo.training.fitting": ("FitConfig", "fit"),
    "strzoo.training.planning": ("TrainPlan", "plan"),
    "strzoo.training.procedure": ("train",),
    "strzoo.training.recipes": ("list_recipes", "load_recipe"),
    "strzoo.training.records": ("TrainResult",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'strzoo' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
