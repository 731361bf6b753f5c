"""train: a run from its configuration to its report, begun or gone on with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from strzoo.arguments import checked
from strzoo.checkpoint import build_checkpoint
from strzoo.devices import choose_precision, cpu_threads, find_device, float32_mode
from strzoo.distributed import Group, join_group
from strzoo.settings import Settings
from strzoo.sparse.selection import takes_grey
from strzoo.training.accelerator import warnings_of_first
from strzoo.training.builders import build_network
from strzoo.training.config import TrainConfig
from strzoo.training.datasets import open_datasets
from strzoo.training.folder import RunFolder
from strzoo.training.loop import Stopped, Trainer
from strzoo.training.objective import build_teacher
from strzoo.training.random_state import preserved_randomness, seed_all
from strzoo.training.recipes import check_code, load_recipe
from strzoo.training.resolving import resolve_config
from strzoo.training.results import EpochRecord, Event, RunStarted, TrainResult, choose_best
from strzoo.training.signals import stop_requests
from strzoo.training.state import check_resumable, read_state
from strzoo.training.tensorboard import Board


@checked
def train(
    config: TrainConfig | str | os.PathLike[str],
    *,
    settings: Settings | None = None,
    on_event: Callable[[Event], object] = lambda event: None,
) -> TrainResult:
    """Train a network as `config` says, and leave everything in its run folder.

    The same configuration, data and machine give the same network, to the bit on the CPU, also
    if the run was interrupted and gone on with (`resume="auto"`). SIGTERM and Ctrl-C end it after
    the present step, with its state written. The caller's random state is left alone. Started by
    torchrun, the processes share each batch; every one returns the same result.

    Args:
        config: a `TrainConfig`, or the name or file of a recipe.
        settings: where pretrained weights come from; from the environment by default.
        on_event: called as the run goes on, see `strzoo.training.results`.

    Returns:
        The epochs, the best of them, the run folder and its files.

    Raises:
        UsageError: the configuration does not fit the data, the network or the machine.
        StrzooError and its subclasses: something cannot be read or written, or the loss is not
            finite; the last checkpoint stays.
    """
    if not isinstance(config, TrainConfig):
        recipe, config = config, load_recipe(config)
        check_code(recipe, config, ())
    config = resolve_config(config, settings)
    device = find_device(config.device)
    precision = choose_precision(config.precision, device)
    with contextlib.ExitStack() as stack:
        stack.enter_context(preserved_randomness())
        stack.enter_context(float32_mode(device, precision))
        group = stack.enter_context(join_group(device))
        folder = RunFolder(config)
        group.lead(lambda: stack.enter_context(folder.locked()))
        return _run(config, folder, device, group, settings, on_event)


def _run(
    config: TrainConfig,
    folder: RunFolder,
    device: torch.device,
    group: Group,
    settings: Settings | None,
    on_event: Callable[[Event], object],
) -> TrainResult:
    resumed = group.lead(folder.find_resume)
    document = None if resumed is None else group.lead(lambda: read_state(resumed))
    notes: list[str] = []
    if document is not None and resumed is not None:
        notes += check_resumable(config, document, resumed)
    data = open_datasets(config, device, group.local_world)
    seed_all(config.seed)
    begun = config if document is None else replace(config, pretrained=False)
    network = build_network(begun, device, group=group, settings=settings)
    if takes_grey(network.model):
        data = open_datasets(config, device, group.local_world, grey=True)
    teacher = build_teacher(
        config.teacher, device, choose_precision(config.precision, device), data.image_shape,
        config.num_classes, settings, config.architecture,
    )  # fmt: skip
    notes += network.notes
    board: Board | None = None

    def report(event: Event) -> None:
        if board is not None:
            board(event)
        on_event(event)

    trainer = Trainer(
        config, network, data, device=device, group=group, teacher=teacher, folder=folder,
        on_event=report,
    )  # fmt: skip
    notes += trainer.try_out()
    state = trainer.state
    if document is not None and resumed is not None:
        notes += state.load_state_dict(document, group, resumed)
    del document
    interrupted = None
    # Refuses what no checkpoint can hold, before the folder does.
    options = group.lead(
        lambda: build_checkpoint(network.model, trained_on=data.trained_on).spec.chosen
    )
    with cpu_threads(trainer.threads), warnings_of_first(group), stop_requests() as stop:
        if group.rank == 0:
            folder.begin(config, device, group.world)
            folder.write_history(state.history)
            board = Board(
                folder.path / "tensorboard", step=trainer.position, enabled=config.tensorboard
            )
        report(
            RunStarted(
                folder.path, config.epochs, trainer.sampler.steps_per_epoch, data.description,
                str(device), trainer.accelerator.precision, group.world, state.epoch, state.step,
                resumed, tuple(notes),
            )
        )  # fmt: skip
        try:
            trainer.run(stop)
        except Stopped:
            interrupted = stop.name or "another process"
        finally:
            if board is not None:
                board.close()
    history = tuple(state.history)
    conclude = partial(_conclude, folder, config, history, data.image_shape, options)
    files = group.lead(conclude) if interrupted is None else ()
    return TrainResult(
        folder.path, interrupted is None, history, choose_best(history), resumed, interrupted, files
    )


def _conclude(
    folder: RunFolder,
    config: TrainConfig,
    history: Sequence[EpochRecord],
    input_size: tuple[int, ...],
    options: Mapping[str, Any],
) -> tuple[Path, ...]:
    """Write the report and the learned budget; returns the files of the run."""
    from strzoo.training.summary import write_report

    write_report(folder, config, history, input_size, options)
    return tuple(sorted(path for path in folder.path.glob("[!.]*") if path.is_file()))
