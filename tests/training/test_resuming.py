"""A run that was killed or asked to end goes on as if nothing had happened, to the bit."""

from __future__ import annotations

import dataclasses
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import strzoo
from strzoo.checkpoint.reading import read_document
from strzoo.checkpoint.record import TrainedOn
from strzoo.data.imageset import ImageSet
from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.training.config import TrainConfig
from strzoo.training.folder import RunFolder
from strzoo.training.parsing import dump_config
from strzoo.training.results import StepDone
from strzoo.training.sampler import BatchSampler
from tests.conftest import CliResult
from tests.helpers.runs import SHORT, differences, environment, final_state, run_program

# Dies by SIGKILL at the end of epoch 2, step 3 (the last checkpoint is of step 1), ...
KILLED_BETWEEN = """
import os, signal, sys, torch, strzoo
torch.set_num_threads(1)
def watch(event):
    if getattr(event, "step", 0) == 3 and event.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
strzoo.train(sys.argv[1], on_event=watch)
"""
# ... or in the middle of writing last.pth at the end of epoch 1.
KILLED_WRITING = """
import os, signal, sys, torch, strzoo
torch.set_num_threads(1)
save, seen = torch.save, []
def half(document, path, *args):
    save(document, path, *args)
    seen.append(path)
    if "training" in document and sum("last" in str(p) for p in seen) == 2:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = half
strzoo.train(sys.argv[1])
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    random_states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    result = strzoo.train(dataclasses.replace(SHORT, output=str(folder)))
    assert result.finished
    assert len(result.history) == 2
    # The caller's generators are as they were.
    assert torch.equal(torch.get_rng_state(), random_states[0])
    assert random.getstate() == random_states[1]
    assert np.array_equal(np.random.get_state()[1], random_states[2])
    return folder


def _write(config: TrainConfig, folder: Path) -> tuple[TrainConfig, Path]:
    config = dataclasses.replace(config, output=str(folder / "run"), resume="auto")
    file = folder / "short.yaml"
    file.write_text(dump_config(config))
    return config, file


@pytest.mark.slow
@pytest.mark.parametrize("program", [KILLED_BETWEEN, KILLED_WRITING], ids=["between", "writing"])
def test_a_killed_run_goes_on_to_the_very_same_end(
    program: str, uninterrupted: Path, tmp_path: Path
) -> None:
    config, file = _write(SHORT, tmp_path)
    assert run_program(program, file) == -signal.SIGKILL
    training = read_document(tmp_path / "run" / "last.pth")["training"]
    assert training["step"] > 0, "the checkpoint is of mid-epoch"
    result = strzoo.train(config)
    assert result.finished
    assert result.resumed == tmp_path / "run" / "last.pth"
    assert differences(final_state(uninterrupted), final_state(tmp_path / "run")) == []
    for name in ("best_str.pth", "best_dense.pth", "initial.pth"):
        made = read_document(tmp_path / "run" / name)
        assert differences(read_document(uninterrupted / name), made) == []
    rows = (tmp_path / "run" / "results.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2"]
    assert not list((tmp_path / "run").glob(".*.part"))


@pytest.mark.slow
def test_sigterm_ends_the_command_cleanly_and_the_run_goes_on_to_the_same_end(
    uninterrupted: Path, tmp_path: Path
) -> None:
    config, file = _write(dataclasses.replace(SHORT, checkpoint_every=0), tmp_path)
    running = subprocess.Popen(
        [sys.executable, "-m", "strzoo", "train", str(file)],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stderr is not None
    line = ""
    while not line.startswith("epoch 1 step 2/5"):
        line = running.stderr.readline()
        assert line, "the run ended before its second step"
    running.send_signal(signal.SIGTERM)
    _, rest = running.communicate(timeout=300)
    assert running.returncode == 0, rest
    assert f"stopped by SIGTERM; go on with resume=auto output={tmp_path / 'run'}" in rest
    assert not strzoo.read_checkpoint(tmp_path / "run" / "last.pth").metadata["epoch"]
    assert strzoo.train(config).finished
    assert differences(final_state(uninterrupted), final_state(tmp_path / "run")) == []


def test_a_finished_run_has_nothing_left_to_do_and_is_not_begun_again(uninterrupted: Path) -> None:
    config = dataclasses.replace(SHORT, output=str(uninterrupted))
    before = read_document(uninterrupted / "last.pth")
    again = strzoo.train(dataclasses.replace(config, resume="auto"))
    assert again.finished
    assert len(again.history) == 2
    assert differences(before, read_document(uninterrupted / "last.pth")) == []
    with pytest.raises(UsageError, match="holds a run; go on with resume=auto"):
        strzoo.train(config)


@pytest.mark.slow
def test_a_second_training_into_a_folder_in_use_is_refused_and_touches_nothing(
    tmp_path: Path, cli: Callable[..., CliResult]
) -> None:
    config = dataclasses.replace(SHORT, output=str(tmp_path / "run"), epochs=1, warmup_epochs=0.0)
    refused: list[CliResult] = []

    def second(event: object) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            part = tmp_path / "run" / ".last.pth.in-the-making.part"
            part.touch()
            for resume in ("none", "auto"):
                refused.append(
                    cli("train", "digits_str", f"output={tmp_path / 'run'}", f"resume={resume}")
                )
            assert part.exists()
            part.unlink()

    assert strzoo.train(config, on_event=second).finished
    assert [(done.code, done.error) for done in refused] == 2 * [
        (1, f"another training writes to {tmp_path / 'run'}; wait for it, or choose another "
            "output=FOLDER")
    ]  # fmt: skip
    # It is free again afterwards.
    assert strzoo.train(dataclasses.replace(config, resume="auto")).finished


@pytest.mark.slow
def test_a_finished_run_is_extended_and_holds_its_target(
    uninterrupted: Path, tmp_path: Path
) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    notes: list[str] = []
    config = dataclasses.replace(SHORT, output=str(tmp_path / "run"), resume="auto")
    for epochs in (4, 5):
        result = strzoo.train(
            dataclasses.replace(config, epochs=epochs),
            on_event=lambda event: notes.extend(getattr(event, "notes", ())),
        )
        assert result.finished
        assert [record.epoch for record in result.history] == list(range(1, epochs + 1))
        assert all(record.candidate for record in result.history[2:])
        for record in result.history[1:]:
            assert record.sparsity == pytest.approx(80, abs=0.1)
    # A cosine from 0.1 at epoch 1 to 0 at epoch 4 has fallen to 3/4 at epoch 2.
    assert notes[0] == (
        "epochs was 2 and is 4: the learning rate goes on as in a run of 4 epochs, at 0.075; the "
        "sparsity rises as planned for 2 epochs, and the target is held from then on"
    )
    assert result.history[3].learning_rate < result.history[2].learning_rate < 0.075


def test_what_would_make_the_state_meaningless_is_refused(
    uninterrupted: Path, tmp_path: Path
) -> None:
    last = str(uninterrupted / "last.pth")
    changes: list[tuple[dict[str, Any], str]] = [
        ({"batch_size": 128}, "batch_size=256, now it is 128"),
        ({"method": "dense", "target_sparsity": None}, "method=str, now it is dense"),
        ({"epochs": 1, "warmup_epochs": 0.5}, "epochs=2, now it is 1"),
        ({"seed": 1}, "seed=0, now it is 1"),
    ]
    for change, message in changes:
        config = dataclasses.replace(SHORT, output=str(tmp_path / "new"), resume=last, **change)
        with pytest.raises(UsageError, match=message):
            strzoo.train(config)
    dense = str(uninterrupted / "best_dense.pth")
    config = dataclasses.replace(SHORT, output=str(tmp_path / "new"), resume=dense)
    with pytest.raises(IntegrityError, match="holds no training state; to start from its weights"):
        strzoo.train(config)
    cut = tmp_path / "cut.pth"
    cut.write_bytes((uninterrupted / "last.pth").read_bytes()[:5000])
    with pytest.raises(StrzooError, match="is damaged"):
        strzoo.train(dataclasses.replace(config, resume=str(cut)))


def test_a_loss_that_is_not_finite_ends_the_run_before_the_step_and_the_last_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(split: str) -> ImageSet:
        data = strzoo.load_digits(split)
        if split == "train":  # an image of the fourth batch
            data.images[BatchSampler(len(data), 256).indices(0)[3 * 256 + 7]] = torch.nan
        return data

    monkeypatch.setattr("strzoo.training.datasets.load_digits", poisoned)
    config = dataclasses.replace(SHORT, output=str(tmp_path / "run"), checkpoint_every=1)
    with pytest.raises(StrzooError, match="loss is not finite in epoch 1, step 4, at") as caught:
        strzoo.train(config)
    assert "last.pth is from before; go on from it with resume=auto" in str(caught.value)
    assert read_document(tmp_path / "run" / "last.pth")["training"]["step"] == 3
    kept = strzoo.read_checkpoint(tmp_path / "run" / "last.pth")
    assert all(torch.isfinite(value).all() for value in kept.state_dict.values())


def test_weights_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    folder = RunFolder(dataclasses.replace(SHORT, output=str(tmp_path / "run")))
    model = strzoo.create_model("resnet20")
    with folder.locked():
        folder.save_last(model, {"epoch": 3}, TrainedOn((3, 8, 8)))
        with torch.no_grad():
            model.fc.weight[0] = torch.inf
        with pytest.raises(IntegrityError, match=r"fc\.weight has a value that is not finite"):
            folder.save_last(model, {"epoch": 4}, TrainedOn((3, 8, 8)))
    assert read_document(folder.last)["epoch"] == 3
