"""The callbacks in the real training loops of Lightning and Hugging Face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.training.test_own_loop import network
from tests.training.test_sparsity_target import count_zeros

pytestmark = pytest.mark.filterwarnings("ignore")
TOTAL = 3 * 12 * 9 + 12 * 20 * 9 + 20 * 4


def images() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(48, 3, 9, 9), torch.arange(48) % 4


@pytest.mark.slow
def test_a_fit_of_lightning_ends_at_the_target_and_is_taken_up_again(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed")
    from strzoo.integrations.lightning import SparsityCallback

    class Module(lightning.LightningModule):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = network()
            self.validated: list[float] = []

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def validation_step(self, batch: Any, _: int) -> None:
            self.validated.append(count_zeros(self.network))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    loader = DataLoader(TensorDataset(*images()), batch_size=4)
    options: dict[str, Any] = {
        "max_epochs": 4, "accumulate_grad_batches": 2, "accelerator": "cpu", "logger": False,
        "default_root_dir": tmp_path, "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    callback = SparsityCallback(0.8, end=0.5)
    module = Module()
    lightning.Trainer(callbacks=[callback], **options).fit(module, loader, loader)
    assert callback.control is not None
    assert callback.control.steps == 4 * 6  # 12 batches an epoch, two of them in each step
    assert abs(count_zeros(module.network) - 0.8) <= 1 / TOTAL
    # From half of the training on every validation sees the target.
    assert all(abs(found - 0.8) <= 1 / TOTAL for found in module.validated[-24:])
    [file] = tmp_path.rglob("*.ckpt")
    again = SparsityCallback(0.8, end=0.5)
    later = Module()
    trainer = lightning.Trainer(callbacks=[again], **{**options, "max_epochs": 5})
    trainer.fit(later, loader, ckpt_path=file)
    assert again.control is not None
    assert again.control.steps == 5 * 6
    assert abs(count_zeros(later.network) - 0.8) <= 1 / TOTAL


@pytest.mark.slow
def test_the_trainer_of_hugging_face_ends_at_the_target(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from strzoo.integrations.transformers import SparsityCallback

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network("gmp")

        def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
            logits = self.network(pixel_values)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    rows = [{"pixel_values": x, "labels": y} for x, y in zip(*images(), strict=True)]

    def fit(callback: Any, **options: Any) -> nn.Module:
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), num_train_epochs=2, per_device_train_batch_size=4,
            gradient_accumulation_steps=2, save_strategy="steps", save_steps=5, report_to=[],
            use_cpu=True, disable_tqdm=True, learning_rate=0.05, optim="sgd",
            restore_callback_states_from_checkpoint=True,
        )  # fmt: skip
        model = Model()
        trainer = transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[callback])
        trainer.train(**options)
        return model

    callback = SparsityCallback(0.75)
    model = fit(callback)
    assert callback.control is not None
    assert callback.control.steps == 2 * 6
    assert count_zeros(model) == pytest.approx(0.75, abs=2 / TOTAL)  # each layer is rounded
    again = SparsityCallback(0.75)
    resumed = fit(again, resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert count_zeros(resumed) == pytest.approx(0.75, abs=2 / TOTAL)
    for mine, expected in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.allclose(mine, expected, atol=1e-6)
