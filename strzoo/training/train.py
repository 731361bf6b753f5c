"""train: a run from its configuration to its report, begun or gone on with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from strzoo.devices import float32_mode
from strzoo.distributed import Group, join_group
from strzoo.errors import StrzooError
from strzoo.settings import Settings
from strzoo.training.builders import choose_device, choose_precision
from strzoo.training.config import TrainConfig
from strzoo.training.folder import RunFolder
from strzoo.training.loop import Stopped, Trainer
from strzoo.training.random_state import preserved_randomness
from strzoo.training.recipes import load_recipe
from strzoo.training.results import Event, RunStarted, TrainResult, choose_best
from strzoo.training.signals import stop_requests
from strzoo.training.state import check_resumable, read_state, restore_state
from strzoo.training.tensorboard import Board


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

    Raises:
        UsageError: the configuration does not fit the data, the network or the machine.
        StrzooError and its subclasses: something cannot be read or written, or the loss is not
            finite; the last checkpoint stays.
    """
    if not isinstance(config, TrainConfig):
        config = load_recipe(config)
    device = choose_device(config)
    precision = choose_precision(config, device)
    with contextlib.ExitStack() as stack:
        stack.enter_context(preserved_randomness())
        stack.enter_context(float32_mode(device, precision))
        group = stack.enter_context(join_group(device))
        stack.enter_context(_fellows(group))
        return _run(config, device, group, settings, on_event)


def _run(
    config: TrainConfig,
    device: torch.device,
    group: Group,
    settings: Settings | None,
    on_event: Callable[[Event], object],
) -> TrainResult:
    folder = group.lead(lambda: RunFolder(config))
    resumed = group.lead(lambda: folder.find_resume(config))
    document = None if resumed is None else group.lead(lambda: read_state(resumed))
    notes: list[str] = []
    if document is not None and resumed is not None:
        notes += check_resumable(config, document, resumed)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", group.world))
    trainer = Trainer(
        config, device, group, local_processes=local, settings=settings, on_event=on_event
    )
    if document is not None and resumed is not None:
        notes += restore_state(trainer, document, resumed)
    del document
    if group.rank == 0:
        folder.begin(config, device)
        folder.write_history(trainer.history)
        trainer.board = Board(
            folder.path / "tensorboard", step=trainer.position, enabled=config.tensorboard
        )
    on_event(
        RunStarted(
            folder.path, config.epochs, trainer.order.steps, trainer.data.description, str(device),
            trainer.machine.precision, group.world, trainer.epoch, trainer.step, resumed,
            tuple(notes),
        )
    )  # fmt: skip
    interrupted = None
    with stop_requests() as stop:
        try:
            trainer.run(folder, stop, resumed=resumed)
        except Stopped:
            interrupted = stop.name or "another process"
        finally:
            if trainer.board is not None:
                trainer.board.close()
    files = group.lead(lambda: _conclude(folder, trainer)) if interrupted is None else ()
    history = tuple(trainer.history)
    return TrainResult(
        folder.path, interrupted is None, history, choose_best(history), resumed, interrupted, files
    )


def _conclude(folder: RunFolder, trainer: Trainer) -> tuple[Path, ...]:
    """Write the report and the learned budget; returns the files of the run."""
    from strzoo.training.summary import write_report

    write_report(folder, trainer.config, trainer.history)
    return tuple(sorted(path for path in folder.path.iterdir() if path.is_file()))


@contextlib.contextmanager
def _fellows(group: Group) -> Iterator[None]:
    """Another process's end, which torch reports as a broken connection, as one line."""
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        signs = ("Connection closed", "Connection reset", "Broken pipe", "gloo", "NCCL")
        if group.world == 1 or not any(sign in text for sign in signs):
            raise
        raise StrzooError(f"another process of the run has ended: {text[:160]}") from error
