"""A callback for the Trainer of Hugging Face: it calls the control of sparsity after each step.

    trainer = transformers.Trainer(model, arguments, callbacks=[SparsityCallback(0.9)], ...)

The network is made sparse by `strzoo.sparsify_` before the trainer is made.
"""

from __future__ import annotations

from typing import Any

from strzoo.errors import StrzooError, install_advice
from strzoo.training.own_loop import PruningSchedule, SparsityTarget, control_sparsity

try:
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState
except ImportError:
    raise StrzooError(
        f"strzoo.integrations.transformers needs it: {install_advice('transformers')}"
    ) from None


class SparsityCallback(TrainerCallback, ExportableState):
    """Brings the sparse layers of the trainer's network to a sparsity within the training.

    STR networks get a `strzoo.SparsityTarget`, GMP and DNW ones a `strzoo.PruningSchedule`. Before
    each evaluation and checkpoint the network is at what the schedule wants. Its state is in the
    trainer's checkpoints; a resumed training needs
    `restore_callback_states_from_checkpoint=True`.

    Args:
        target: fraction of zeros, or what `PruningSchedule` takes.
        options: further arguments of that class, such as start and end.

    Raises:
        UsageError: at the beginning of the training: no sparse layers, or a value out of range.
    """

    def __init__(self, target: Any, **options: Any) -> None:
        self._target, self._options = target, options
        self.control: SparsityTarget | PruningSchedule | None = None
        self.saved: dict[str, Any] | None = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        self.control = control_sparsity(model, self._target, state.max_steps, **self._options)
        if self.saved:
            self.control.load_state_dict(self.saved)

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        assert self.control is not None
        self.control.step()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.control is not None
        if control.should_evaluate or control.should_save:
            self.control.settle()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.control is not None
        self.control.settle()

    def state(self) -> dict[str, Any]:
        saved = self.saved if self.control is None else self.control.state_dict()
        return {"args": {"target": self._target, **self._options}, "attributes": {"saved": saved}}
