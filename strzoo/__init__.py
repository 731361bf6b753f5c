"""strzoo: sparse convolutional networks learned by STR.

The public names below are imported when first used, so `import strzoo` costs nothing and the
parts that need no torch do not import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from strzoo.version import VERSION

if TYPE_CHECKING:
    from strzoo.analysis.extract import extract_budget as extract_budget
    from strzoo.analysis.inspect_onnx import OnnxInspection as OnnxInspection
    from strzoo.analysis.inspect_onnx import inspect_onnx as inspect_onnx
    from strzoo.analysis.paper import PaperComparison as PaperComparison
    from strzoo.analysis.paper import compare_paper_table as compare_paper_table
    from strzoo.analysis.report import report as report
    from strzoo.analysis.report import report_budget as report_budget
    from strzoo.analysis.results import Report as Report
    from strzoo.analysis.verify import verify as verify
    from strzoo.benchmarking.benchmark import benchmark as benchmark
    from strzoo.benchmarking.results import BenchmarkResult as BenchmarkResult
    from strzoo.benchmarking.tradeoff import tradeoff as tradeoff
    from strzoo.benchmarking.tradeoff_results import TradeoffResult as TradeoffResult
    from strzoo.checkpoint import Checkpoint as Checkpoint
    from strzoo.checkpoint import build_checkpoint as build_checkpoint
    from strzoo.checkpoint import read_checkpoint as read_checkpoint
    from strzoo.checkpoint import save_checkpoint as save_checkpoint
    from strzoo.checkpoint.convert import to_dense as to_dense
    from strzoo.data.digits import load_digits as load_digits
    from strzoo.downloads.download import download as download
    from strzoo.engine.compile import compile as compile
    from strzoo.engine.runtime.model import SparseModel as SparseModel
    from strzoo.errors import StrzooError as StrzooError
    from strzoo.evaluation.compare import ModelComparison as ModelComparison
    from strzoo.evaluation.compare import compare as compare
    from strzoo.evaluation.evaluate import evaluate as evaluate
    from strzoo.evaluation.predict import Prediction as Prediction
    from strzoo.evaluation.predict import predict as predict
    from strzoo.evaluation.results import EvalResult as EvalResult
    from strzoo.export.export_onnx import export_onnx as export_onnx
    from strzoo.hub.convert import convert as convert
    from strzoo.hub.load import get_transforms as get_transforms
    from strzoo.hub.load import load as load
    from strzoo.matrices.export import MatrixExport as MatrixExport
    from strzoo.matrices.export import export_matrices as export_matrices
    from strzoo.models.architecture import Architecture as Architecture
    from strzoo.models.create import create_model as create_model
    from strzoo.models.registry import list_architectures as list_architectures
    from strzoo.models.registry import register_architecture as register_architecture
    from strzoo.onnx.results import OnnxExport as OnnxExport
    from strzoo.pruning.prune import prune as prune
    from strzoo.pruning.results import PruneResult as PruneResult
    from strzoo.settings import Settings as Settings
    from strzoo.sparse.filters import remove_filters as remove_filters
    from strzoo.sparse.filters import sparsify_filters_ as sparsify_filters_
    from strzoo.sparse.layers import DNWConv2d as DNWConv2d
    from strzoo.sparse.layers import DNWLinear as DNWLinear
    from strzoo.sparse.layers import GMPConv2d as GMPConv2d
    from strzoo.sparse.layers import GMPLinear as GMPLinear
    from strzoo.sparse.layers import STRConv2d as STRConv2d
    from strzoo.sparse.layers import STRLinear as STRLinear
    from strzoo.sparse.layers import soft_threshold as soft_threshold
    from strzoo.sparse.sparsify import sparsify_ as sparsify_
    from strzoo.sparse.sparsify import to_dense_ as to_dense_
    from strzoo.training.config import TrainConfig as TrainConfig
    from strzoo.training.fit import FitConfig as FitConfig
    from strzoo.training.fit import fit as fit
    from strzoo.training.own_loop import PruningSchedule as PruningSchedule
    from strzoo.training.own_loop import SparsityTarget as SparsityTarget
    from strzoo.training.plan import TrainPlan as TrainPlan
    from strzoo.training.plan import plan as plan
    from strzoo.training.recipes import list_recipes as list_recipes
    from strzoo.training.recipes import load_recipe as load_recipe
    from strzoo.training.results import TrainResult as TrainResult
    from strzoo.training.train import train as train
    from strzoo.zoo.budgets import Budget as Budget
    from strzoo.zoo.budgets import compare_budgets as compare_budgets
    from strzoo.zoo.budgets import list_budgets as list_budgets
    from strzoo.zoo.budgets import load_budget as load_budget
    from strzoo.zoo.budgets import write_budget as write_budget
    from strzoo.zoo.paper import PaperTable as PaperTable
    from strzoo.zoo.paper import list_paper_tables as list_paper_tables
    from strzoo.zoo.paper import load_paper_table as load_paper_table
    from strzoo.zoo.registry import ModelCard as ModelCard
    from strzoo.zoo.registry import get_card as get_card
    from strzoo.zoo.registry import list_models as list_models

__version__ = VERSION

# Where each public name lives; tests compare it with the imports above.
_HOMES = {
    "strzoo.analysis.extract": ("extract_budget",),
    "strzoo.analysis.paper": ("PaperComparison", "compare_paper_table"),
    "strzoo.analysis.results": ("Report",),
    "strzoo.analysis.report": ("report", "report_budget"),
    "strzoo.analysis.verify": ("verify",),
    "strzoo.zoo.budgets": (
        "Budget",
        "compare_budgets",
        "list_budgets",
        "load_budget",
        "write_budget",
    ),
    "strzoo.checkpoint": ("Checkpoint", "build_checkpoint", "read_checkpoint", "save_checkpoint"),
    "strzoo.checkpoint.convert": ("to_dense",),
    "strzoo.hub.convert": ("convert",),
    "strzoo.data.digits": ("load_digits",),
    "strzoo.benchmarking.benchmark": ("benchmark",),
    "strzoo.analysis.inspect_onnx": ("OnnxInspection", "inspect_onnx"),
    "strzoo.matrices.export": ("MatrixExport", "export_matrices"),
    "strzoo.export.export_onnx": ("export_onnx",),
    "strzoo.onnx.results": ("OnnxExport",),
    "strzoo.benchmarking.results": ("BenchmarkResult",),
    "strzoo.benchmarking.tradeoff": ("tradeoff",),
    "strzoo.benchmarking.tradeoff_results": ("TradeoffResult",),
    "strzoo.downloads.download": ("download",),
    "strzoo.engine.compile": ("compile",),
    "strzoo.engine.runtime.model": ("SparseModel",),
    "strzoo.errors": ("StrzooError",),
    "strzoo.evaluation.compare": ("ModelComparison", "compare"),
    "strzoo.evaluation.evaluate": ("evaluate",),
    "strzoo.evaluation.results": ("EvalResult",),
    "strzoo.hub.load": ("get_transforms", "load"),
    "strzoo.sparse.filters": ("remove_filters", "sparsify_filters_"),
    "strzoo.sparse.layers": (
        "DNWConv2d",
        "DNWLinear",
        "GMPConv2d",
        "GMPLinear",
        "STRConv2d",
        "STRLinear",
        "soft_threshold",
    ),
    "strzoo.models.architecture": ("Architecture",),
    "strzoo.models.create": ("create_model",),
    "strzoo.models.registry": ("list_architectures", "register_architecture"),
    "strzoo.evaluation.predict": ("Prediction", "predict"),
    "strzoo.zoo.paper": ("PaperTable", "list_paper_tables", "load_paper_table"),
    "strzoo.zoo.registry": ("ModelCard", "get_card", "list_models"),
    "strzoo.pruning.prune": ("prune",),
    "strzoo.pruning.results": ("PruneResult",),
    "strzoo.settings": ("Settings",),
    "strzoo.sparse.sparsify": ("sparsify_", "to_dense_"),
    "strzoo.training.config": ("TrainConfig",),
    "strzoo.training.fit": ("FitConfig", "fit"),
    "strzoo.training.own_loop": ("PruningSchedule", "SparsityTarget"),
    "strzoo.training.plan": ("TrainPlan", "plan"),
    "strzoo.training.train": ("train",),
    "strzoo.training.recipes": ("list_recipes", "load_recipe"),
    "strzoo.training.results": ("TrainResult",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_SUBPACKAGES = ("rnn",)  # imported when first used, as the names
__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _SUBPACKAGES:
        return import_module(f"strzoo.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'strzoo' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
