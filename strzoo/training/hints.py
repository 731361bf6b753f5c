"""What a run tells its user once: that the machine is busy, that nothing became sparse."""

from __future__ import annotations

import logging
import os

import torch
from torch import nn

from strzoo.sparse.selection import str_layers
from strzoo.training.layer_state import measure_layers, total_sparsity

log = logging.getLogger(__name__)

_SPARSE = 0.1  # percent


class BusyMachine:
    """Warns once if other programs compute beside several threads of this one, which then wait
    for each other: small networks become ten times slower by that."""

    def __init__(self, device: torch.device) -> None:
        self._done = device.type != "cpu" or not hasattr(os, "getloadavg")

    def check(self) -> None:
        """Look at the load of the last minute; cheap."""
        threads = torch.get_num_threads()
        if self._done or threads == 1:
            return
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
        if load - threads >= 1 and load > cores:
            self._done = True
            log.warning(
                "the machine is busy (a load of %.1f on %d cores) and torch computes with %d "
                "threads, which wait for each other; if steps are slow, threads=1 can be many "
                "times faster",
                load, cores, threads,
            )  # fmt: skip


def warn_if_dense(model: nn.Module) -> None:
    """Warn that the thresholds of an STR network made hardly any weight zero."""
    layers = measure_layers(model)
    learned = {name: layers[name] for name in str_layers(model)}
    if not learned or total_sparsity(learned) >= _SPARSE:
        return
    largest = max(layer.threshold or 0.0 for layer in learned.values())
    log.warning(
        "STR has made %.2f %% of the weights zero: the thresholds are at most %.2g after this "
        "training; start them higher (s_init=-8), decay them more (threshold_decay), or set a "
        "target sparsity",
        total_sparsity(learned), largest,
    )  # fmt: skip
