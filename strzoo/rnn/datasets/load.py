"""The sequences that a configuration names."""

from __future__ import annotations

from strzoo.errors import UsageError
from strzoo.rnn.config import RNNConfig
from strzoo.rnn.datasets.har import load_har2
from strzoo.rnn.datasets.sequences import SequenceSet, load_digit_rows, load_edgeml_arrays
from strzoo.rnn.datasets.speech_commands import load_speech_commands

# Steps, features of a step, and classes of the data sets whose form is fixed.
SHAPES = {"digits": (8, 8, 10), "har2": (128, 9, 2), "google12": (99, 32, 12),
          "google30": (99, 32, 30)}  # fmt: skip


def load_sequences(config: RNNConfig, split: str) -> SequenceSet:
    """The split ("train" or "test") of `config.dataset`.

    Raises:
        UsageError: `config.data` is not given where it is needed.
        StrzooError: as the data set's own function.
    """
    if config.dataset == "digits":
        return load_digit_rows(split)
    if config.data is None:
        raise UsageError(f"dataset={config.dataset} needs data=FOLDER")
    if config.dataset == "har2":
        return load_har2(config.data, split)
    if config.dataset == "edgeml":
        assert config.features is not None
        return load_edgeml_arrays(config.data, config.features)[split]
    return load_speech_commands(config.data, split, task=config.dataset, seed=config.seed)
