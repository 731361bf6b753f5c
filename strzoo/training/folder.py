"""The run folder: every file that a run leaves, each written whole or not at all."""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import json
import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from strzoo.checkpoint import Checkpoint, build_checkpoint, save_checkpoint
from strzoo.checkpoint.record import TrainedOn
from strzoo.devices import describe_device, list_versions
from strzoo.errors import StrzooError, UsageError
from strzoo.files import write_error, write_text
from strzoo.settings import user_path
from strzoo.sparse.sparsify import to_dense_
from strzoo.training.config import TrainConfig
from strzoo.training.parsing import dump_config
from strzoo.training.results import EpochRecord

log = logging.getLogger(__name__)

LAST = "last.pth"
LOCK = ".lock"


class RunFolder:
    """The files of a run. docs/training.md lists them.

    Args:
        config: output and resume.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.path = user_path(config.run_folder)
        self.last = self.path / LAST
        self._resume = config.resume

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other trainings out of it while the context lasts.

        Where the file system cannot lock, nothing is kept out. A folder that was made here and
        holds nothing at the end is taken away again: a run that was refused leaves none.

        Raises:
            UsageError: the folder holds a run that is not to be resumed.
            StrzooError: another training uses it; it cannot be made or written.
        """
        new = not self.path.exists()
        self._make()
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StrzooError(
                f"another training writes to {self.path}; wait for it, or choose another "
                "output=FOLDER"
            ) from None
        except (OSError, NotImplementedError) as error:
            log.warning("cannot lock %s (%s); no other training may write to it", self.path, error)
        try:
            # What a killed process left half-written.
            for part in self.path.glob(".*.part"):
                part.unlink(missing_ok=True)
            self._refuse_other_run()
            yield
        finally:
            with contextlib.suppress(OSError):
                if new and os.listdir(self.path) in ([], [LOCK]):
                    (self.path / LOCK).unlink(missing_ok=True)
                    self.path.rmdir()
            with contextlib.suppress(OSError):
                lock.release()

    def _refuse_other_run(self) -> None:
        resumed = None if self._resume == "auto" else self.find_resume()
        own = resumed is not None and resumed.parent.resolve() == self.path.resolve()
        if self.last.exists() and self._resume != "auto" and not own:
            raise UsageError(
                f"{self.path} holds a run; go on with resume=auto, or choose another output=FOLDER"
            )

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except FileExistsError:
            raise StrzooError(f"cannot write {self.path}: it is a file; choose output=") from None
        except OSError as error:
            raise write_error(self.path, error) from error

    def find_resume(self) -> Path | None:
        """The checkpoint to go on from, if any."""
        if self._resume == "auto":
            return self.last if self.last.exists() else None
        if self._resume is None:
            return None
        path = user_path(self._resume)
        return path / LAST if path.is_dir() else path

    def begin(self, config: TrainConfig, device: torch.device, processes: int) -> None:
        """Write config.yaml and environment.json.

        Args:
            config: of the run.
            device: of this process.
            processes: that train together.
        """
        write_text(self.path / "config.yaml", dump_config(config), force=True)
        document = {
            "schema": 1,
            "versions": list_versions(),
            "platform": platform.platform(),
            "device": describe_device(device),
            "threads": torch.get_num_threads(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "processes": processes,
            "command": sys.argv,
        }
        self.write_json("environment.json", document)

    def save_initial(self, model: nn.Module, trained_on: TrainedOn) -> None:
        """Write initial.pth: the network before the first step."""
        self._save(build_checkpoint(model, {"epoch": 0}, trained_on=trained_on), "initial.pth")

    def save_last(
        self, model: nn.Module, metadata: Mapping[str, Any], trained_on: TrainedOn
    ) -> None:
        """Write last.pth: the network with all that a resumed run needs.

        Args:
            model: the network.
            metadata: what to keep beside its weights.
            trained_on: the data.

        Raises:
            IntegrityError: a weight is not finite; the file stays as it was.
        """
        self._save(build_checkpoint(model, metadata, trained_on=trained_on), LAST)

    def save_best(
        self, model: nn.Module, metadata: Mapping[str, Any], trained_on: TrainedOn
    ) -> None:
        """Write best_str.pth (STR only) and best_dense.pth, which holds the effective weights.

        Args:
            model: the network.
            metadata: what to keep beside its weights.
            trained_on: the data.
        """
        made = build_checkpoint(model, metadata, trained_on=trained_on)
        if made.format == "str":
            self._save(made, "best_str.pth")
        dense = to_dense_(copy.deepcopy(model))  # DNW and GMP too compute with fewer weights
        self._save(build_checkpoint(dense, metadata, trained_on=trained_on), "best_dense.pth")

    def save_epoch(
        self, model: nn.Module, metadata: Mapping[str, Any], trained_on: TrainedOn
    ) -> None:
        """Write epoch_N.pth: the network of an epoch, thresholds included.

        Args:
            model: the network.
            metadata: what to keep beside its weights, `epoch` among it.
            trained_on: the data.
        """
        made = build_checkpoint(model, metadata, trained_on=trained_on)
        self._save(made, f"epoch_{metadata['epoch']}.pth")

    def _save(self, checkpoint: Checkpoint, name: str) -> None:
        save_checkpoint(checkpoint, self.path / name, force=True)

    def write_history(self, history: Sequence[EpochRecord]) -> None:
        """Write results.csv, and layers.json: sparsity and threshold of each layer by epoch."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(EpochRecord.columns())
        for record in history:
            row = (getattr(record, name) for name in EpochRecord.columns())
            table.writerow(["" if value is None else value for value in row])
        write_text(self.path / "results.csv", text.getvalue(), force=True)
        names = history[-1].layers if history else {}
        layers = {
            name: {
                "weights": state.weights,
                "sparsity": [record.layers[name].sparsity for record in history],
                "threshold": [record.layers[name].threshold for record in history],
            }
            for name, state in names.items()
        }
        epochs = [record.epoch for record in history]
        self.write_json("layers.json", {"schema": 1, "epochs": epochs, "layers": layers})

    def write_json(self, name: str, document: Any) -> None:
        """Write a JSON file of the run."""
        write_text(self.path / name, json.dumps(document, indent=1) + "\n", force=True)
