"""FastGRNN with learned rank: layers, training, EdgeML's files, int8, ONNX and C.

The public names are imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strzoo.rnn.c_header import export_c as export_c
    from strzoo.rnn.cell import FastGRNNCell as FastGRNNCell
    from strzoo.rnn.classifier import SequenceClassifier as SequenceClassifier
    from strzoo.rnn.classifier import measure_normalisation as measure_normalisation
    from strzoo.rnn.config import RankTarget as RankTarget
    from strzoo.rnn.config import RNNConfig as RNNConfig
    from strzoo.rnn.datasets.har import load_har2 as load_har2
    from strzoo.rnn.datasets.sequences import SequenceSet as SequenceSet
    from strzoo.rnn.datasets.sequences import load_digit_rows as load_digit_rows
    from strzoo.rnn.datasets.sequences import load_edgeml_arrays as load_edgeml_arrays
    from strzoo.rnn.datasets.speech_commands import load_speech_commands as load_speech_commands
    from strzoo.rnn.edgeml import read_classifier as read_classifier
    from strzoo.rnn.edgeml import read_network as read_network
    from strzoo.rnn.edgeml import to_edgeml as to_edgeml
    from strzoo.rnn.edgeml import write_folder as write_folder
    from strzoo.rnn.export_onnx import RNNExport as RNNExport
    from strzoo.rnn.export_onnx import export_rnn as export_rnn
    from strzoo.rnn.files import load_rnn as load_rnn
    from strzoo.rnn.files import save_rnn as save_rnn
    from strzoo.rnn.layer import FastGRNN as FastGRNN
    from strzoo.rnn.quantisation import Int8Classifier as Int8Classifier
    from strzoo.rnn.quantisation import quantise as quantise
    from strzoo.rnn.rank_target import RankController as RankController
    from strzoo.rnn.recipes import list_recipes as list_recipes
    from strzoo.rnn.recipes import load_recipe as load_recipe
    from strzoo.rnn.report import RNNReport as RNNReport
    from strzoo.rnn.report import report_rnn as report_rnn
    from strzoo.rnn.results import RNNTrainResult as RNNTrainResult
    from strzoo.rnn.training import evaluate_rnn as evaluate_rnn
    from strzoo.rnn.training import plan_rnn as plan_rnn
    from strzoo.rnn.training import train_rnn as train_rnn

# Where each public name lives; tests compare it with the imports above.
_HOMES = {
    "c_header": ("export_c",),
    "cell": ("FastGRNNCell",),
    "classifier": ("SequenceClassifier", "measure_normalisation"),
    "config": ("RNNConfig", "RankTarget"),
    "datasets.har": ("load_har2",),
    "datasets.sequences": ("SequenceSet", "load_digit_rows", "load_edgeml_arrays"),
    "datasets.speech_commands": ("load_speech_commands",),
    "edgeml": ("read_classifier", "read_network", "to_edgeml", "write_folder"),
    "export_onnx": ("RNNExport", "export_rnn"),
    "files": ("load_rnn", "save_rnn"),
    "layer": ("FastGRNN",),
    "quantisation": ("Int8Classifier", "quantise"),
    "rank_target": ("RankController",),
    "recipes": ("list_recipes", "load_recipe"),
    "report": ("RNNReport", "report_rnn"),
    "results": ("RNNTrainResult",),
    "training": ("evaluate_rnn", "plan_rnn", "train_rnn"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'strzoo.rnn' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"strzoo.rnn.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
