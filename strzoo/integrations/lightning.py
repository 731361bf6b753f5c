"""A callback for Lightning: it calls the control of sparsity after each optimizer step.

    trainer = lightning.Trainer(callbacks=[SparsityCallback(0.9)], ...)

The network in the LightningModule is made sparse by `strzoo.sparsify_` before the fit.
"""

from __future__ import annotations

from typing import Any

from strzoo.errors import StrzooError, UsageError, install_advice
from strzoo.training.own_loop import PruningSchedule, SparsityTarget, control_sparsity

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError:
        raise StrzooError(
            f"strzoo.integrations.lightning needs Lightning: {install_advice('lightning')}"
        ) from None


class SparsityCallback(Callback):
    """Brings the sparse layers of a LightningModule to a sparsity within the fit.

    STR networks get a `strzoo.SparsityTarget`, GMP and DNW ones a `strzoo.PruningSchedule`. Before
    each validation, and after each epoch, the network is at what the schedule wants; its state is
    in Lightning's checkpoints.

    Args:
        target: fraction of zeros, or what `PruningSchedule` takes.
        options: further arguments of that class, such as start and end.

    Raises:
        UsageError: at the beginning of the fit: no sparse layers, a value out of range, or a fit
            whose number of steps is not known.
    """

    def __init__(self, target: Any, **options: Any) -> None:
        super().__init__()
        self._target, self._options = target, options
        self.control: SparsityTarget | PruningSchedule | None = None
        self._saved: dict[str, Any] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        total = trainer.estimated_stepping_batches
        if not 0 < total < float("inf"):
            raise UsageError("the fit has no end that is known: set max_epochs or max_steps")
        self.control = control_sparsity(pl_module, self._target, int(total), **self._options)
        if self._saved is not None:
            self.control.load_state_dict(self._saved)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        assert self.control is not None
        while self.control.steps < trainer.global_step:  # none while gradients accumulate
            self.control.step()

    def on_validation_start(self, trainer: Any, *_: Any) -> None:
        if self.control is not None and not trainer.sanity_checking:
            self.control.settle()

    def on_train_epoch_end(self, *_: Any) -> None:
        assert self.control is not None
        self.control.settle()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.control is None else self.control.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict or None
